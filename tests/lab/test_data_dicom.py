"""DICOM files become the pictures that a viewer shows, without a name; what is no single picture is refused."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)
from typer.testing import CliRunner

from alexnet_ablations.cli.application import application
from alexnet_lab import load_run
from alexnet_lab.data.decoding import decode, look_at, quiet_decoders, small_picture
from alexnet_lab.data.dicom import numbered, patient_of
from alexnet_lab.data.feed import open_feed
from alexnet_lab.records import RunFolder
from alexnet_lab.training.recipe import Recipe
from alexnet_lab.training.run import train_with_verdict

pytestmark = pytest.mark.usefixtures("own_cache")
NAME, IDENTIFIER = "Quagmire^Hildegard", "MRN-774411"


def dicom(pixels, bits, *, signed=False, storage=ComputedRadiographyImageStorage, **elements):
    """Return the bytes of a file with these stored values; `elements` are set on top, or removed if None."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = storage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.PatientName, dataset.PatientID = NAME, IDENTIFIER
    if pixels is not None:
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = 8 if bits == 8 else 16
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, int(signed)
        stored = pixels.astype(np.uint8 if bits == 8 else np.int16 if signed else np.uint16)
        dataset.add_new("PixelData", "OW", stored.tobytes())
    for name, value in elements.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    written = io.BytesIO()
    dataset.save_as(written, enforce_file_format=True)
    return written.getvalue()


def shown(content, bits=8):
    with quiet_decoders():
        return decode(content, look_at(content).side("pad"), "pad", grey=True, deep_bits=bits)[0]


RAMP = np.arange(64 * 64).reshape(64, 64) % 4096  # 12 bits


def test_a_window_is_taken_of_rescaled_values():
    # In Hounsfield units the window is -600 to 1000; linear as PS3.3, C.11.2.1.2.1 has it.
    content = dicom(RAMP, 12, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=200, WindowWidth=1600)
    units = RAMP * 2.0 - 1000
    expected = np.clip(((units - (200 - 0.5)) / (1600 - 1) + 0.5) * 255, 0, 255)
    assert np.abs(shown(content) - expected).max() <= 1
    assert len(np.unique(shown(content))) == 256


def test_low_values_that_are_white_are_inverted_after_the_window_and_once():
    window = {"WindowCenter": 1000, "WindowWidth": 800}
    plain = shown(dicom(RAMP, 12, **window))
    for elements in (
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PresentationLUTShape": "INVERSE"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
    ):
        assert (shown(dicom(RAMP, 12, **window, **elements)) == 255 - plain).all()
    assert (plain[RAMP < 500] == 0).all()  # inverted before the window, it would lie about 3095


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_without_a_window_dicom_and_png_of_one_picture_have_the_same_pixels(bits):
    picture = np.random.default_rng(bits).integers(0, 2**bits, (48, 40))
    picture[0, 0] = 2**bits - 1
    png = io.BytesIO()
    Image.fromarray(picture.astype(np.uint16)).save(png, "PNG")
    content = dicom(picture, bits)
    assert look_at(content) == look_at(png.getvalue())
    assert (shown(content, bits) == shown(png.getvalue(), bits)).all()
    inverted = dicom(2**bits - 1 - picture, bits, PhotometricInterpretation="MONOCHROME1")
    assert (shown(inverted, bits) == shown(content, bits)).all()
    signed = dicom(picture - 2 ** (bits - 1), bits, signed=True)
    assert (shown(signed, bits) == shown(content, bits)).all()


def test_eight_bits_stay_as_they_are():
    picture = np.random.default_rng(0).integers(0, 256, (20, 20))
    assert (shown(dicom(picture, 8)) == picture).all()
    assert (shown(dicom(picture, 8, RescaleSlope=-1, RescaleIntercept=255)) == 255 - picture).all()


def test_a_table_of_values_of_interest_is_applied():
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 16], (np.arange(4096) ** 2 // 256).astype(int).tolist()
    content = dicom(RAMP, 12)
    from pydicom import dcmread

    dataset = dcmread(io.BytesIO(content))
    dataset.VOILUTSequence = [table]
    dataset.VOILUTSequence[0]["LUTDescriptor"].VR = "US"
    dataset.VOILUTSequence[0]["LUTData"].VR = "US"
    written = io.BytesIO()
    dataset.save_as(written)
    expected = (RAMP.astype(float) ** 2 // 256) / 65535 * 255
    assert np.abs(shown(written.getvalue()) - expected).max() <= 1


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (lambda: dicom(None, 8, storage=EncapsulatedPDFStorage), "Encapsulated PDF Storage without a picture"),
        (lambda: dicom(RAMP, 12, NumberOfFrames=3), "Computed Radiography Image Storage of 3 frames"),
        (lambda: dicom(RAMP, 12, BitsAllocated=32, BitsStored=32), "32 of 32 bits; 8 to 16 are read"),
        (lambda: dicom(RAMP, 12, Rows=None), "does not say its Rows"),
        (lambda: dicom(RAMP, 12, Rows=60_000, Columns=60_000), "60000 x 60000 pixels, more than"),
        (lambda: dicom(RAMP, 12, Rows=640), "cannot be decoded"),
        (lambda: dicom(RAMP, 12)[:200], "no DICOM that can be read|without a picture|does not say"),
    ],
)
def test_what_is_no_single_picture_is_refused_in_words_of_our_own(content, why):
    with quiet_decoders(), pytest.raises(ValueError, match=why) as refused:
        decode(content(), 64, "crop", grey=True, deep_bits=12)
    assert NAME not in str(refused.value)
    assert IDENTIFIER not in str(refused.value)


def test_patients_are_numbered_and_known_by_nothing_else():
    one, other = dicom(RAMP, 12), dicom(RAMP, 12, PatientID="other")
    nobody = dicom(RAMP, 12, PatientID="")
    keys = [patient_of(content) for content in (other, one, nobody, other, b"no DICOM")]
    assert IDENTIFIER.encode() not in b"".join(keys)
    assert numbered(keys).tolist() == ["patient 1", "patient 2", "patient 3", "patient 1", "patient 4"]
    assert numbered([b"", b""]) is None


def smooth(number, side=64):
    noise = np.random.default_rng(number).integers(0, 4096, (9, 9)).astype(np.int32)
    return np.array(Image.fromarray(noise).resize((side, side), Image.Resampling.BILINEAR))


def make_set(root, suffix=".dcm"):
    """Two images of each of 16 patients, of two classes."""
    for number in range(32):
        picture = smooth(number)
        picture[0, 0] = 4095
        place = root / ("ill", "well")[number // 2 % 2] / f"{number:02}{suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".dcm":
            place.write_bytes(dicom(picture, 12, PatientID=f"{IDENTIFIER}-{number // 2}"))
        else:
            Image.fromarray(picture.astype(np.uint16)).save(place)
    return root


def test_folder_zip_and_table_of_dicom_files_are_the_pictures_of_their_pngs_split_by_patient(tmp_path):
    folder = make_set(tmp_path / "scans")
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        for file in sorted(folder.rglob("*.dcm")):
            archive.write(file, file.relative_to(folder))
    rows = [f"scans/{file.relative_to(folder)},{file.parent.name}" for file in sorted(folder.rglob("*.dcm"))]
    (tmp_path / "table.csv").write_text("\n".join(["path,label", *rows]))
    expected = open_feed(str(make_set(tmp_path / "png", ".png")), image_size=32).stored
    for data in ("scans", "scans.zip", "table.csv"):
        feed = open_feed(str(tmp_path / data), image_size=32)
        assert (np.asarray(feed.stored) == expected).all()
        assert len(set(feed.groups)) == 16
        assert not set(feed.groups[feed.split.train]) & set(feed.groups[feed.split.test])


def test_predict_gives_dicom_and_png_of_one_picture_the_same_probabilities(tmp_path):
    pictures, scans = make_set(tmp_path / "png", ".png"), make_set(tmp_path / "scans")
    recipe = Recipe(data=str(pictures), norm="bn", width=1 / 16, epochs=1, batch_size=16, instruments="off", threads=1)
    before = torch.get_num_threads()
    assert train_with_verdict(recipe, RunFolder(tmp_path / "run")) == 0
    torch.set_num_threads(before)
    run = load_run(tmp_path / "run")
    of_pictures, of_scans = run.predict([pictures]), run.predict([scans])
    assert [Path(name).stem for name in of_scans.files] == [Path(name).stem for name in of_pictures.files]
    assert not of_scans.unreadable
    np.testing.assert_array_equal(of_scans.probabilities, of_pictures.probabilities)
    assert np.ptp(of_scans.probabilities[:, 0]) > 0
    done = CliRunner().invoke(application, ["predict", str(tmp_path / "run"), str(scans), "--json"])
    assert done.exit_code == 0, done.output
    assert IDENTIFIER not in done.output


def test_no_name_or_identifier_of_a_patient_reaches_cache_report_or_screen(tmp_path, own_cache):
    folder = make_set(tmp_path / "scans")
    (folder / "ill/torn.dcm").write_bytes(dicom(RAMP, 12)[:900])
    done = CliRunner().invoke(application, ["audit", str(folder), "--out", str(tmp_path / "audit")])
    assert done.exit_code in (0, 1), done.output
    open_feed(str(folder), image_size=32, skip_bad=True)
    written = [file for place in (own_cache, tmp_path / "audit") for file in place.rglob("*") if file.is_file()]
    assert len(written) > 4
    contents = [done.output.encode(), *(file.read_bytes() for file in written), *(str(f).encode() for f in written)]
    for secret in (NAME.encode(), b"Quagmire", IDENTIFIER.encode()):
        assert not any(secret in content for content in contents)
    assert json.loads((tmp_path / "audit/audit.json").read_text())["patients"]["count"] == 16


def test_the_audit_sees_the_same_small_picture():
    facts, pixels = small_picture(dicom(RAMP, 12, WindowCenter=2048, WindowWidth=4096), 32)
    assert (facts.width, facts.height, facts.format, facts.bits) == (64, 64, "DICOM", 8)
    assert pixels.shape == (32, 32)
