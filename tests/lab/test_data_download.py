"""Downloads: whole or not at all, taken up where they broke off, and refused where they are not the published file."""

import numpy as np
import pytest
from published_server import quiet

from alexnet_lab.data.download import Published, fetched

pytestmark = pytest.mark.usefixtures("own_cache")

RNG = np.random.default_rng(0)


def test_a_file_is_fetched_once_with_progress(server, own_cache):
    content = RNG.bytes(3_000_000)
    file = server.publish("set.bin", content)
    told = []
    place = fetched(file, lambda *report: told.append(report))
    assert place.read_bytes() == content
    assert own_cache in place.parents
    assert told[-1] == ("downloading set.bin", 3_000_000, 3_000_000)
    assert [done for _, done, _ in told] == sorted({done for _, done, _ in told})
    assert fetched(file, quiet) == place
    assert server.asked == [("set.bin", None)]


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_download_that_breaks_off_says_so_and_goes_on_next_time(server, knows_ranges):
    content = RNG.bytes(50_000)
    file = server.publish("set.bin", content)
    server.break_after, server.knows_ranges = 20_000, knows_ranges
    with pytest.raises(ConnectionError, match="broke off after .*the next try goes on there"):
        fetched(file, quiet)
    assert not file.place.exists()
    server.break_after = None
    assert fetched(file, quiet).read_bytes() == content
    assert server.asked == [("set.bin", None), ("set.bin", "bytes=20000-")]


def test_a_download_killed_after_its_last_byte_is_complete(server):
    content = RNG.bytes(5000)
    file = server.publish("set.bin", content)
    file.place.parent.mkdir(parents=True)
    file.place.with_name("set.bin.part").write_bytes(content)
    assert fetched(file, quiet).read_bytes() == content


def test_a_file_that_is_not_the_published_one_is_deleted(server):
    file = server.publish("set.bin", b"good")
    server.files["set.bin"] = b"evil"
    with pytest.raises(ValueError, match=f"has the MD5 .*, and its authors give {file.md5}; it was deleted"):
        fetched(file, quiet)
    assert not [path for path in file.place.parent.iterdir() if path.suffix != ".lock"]
    server.files["set.bin"] = b"good"
    assert fetched(file, quiet).read_bytes() == b"good"


def test_without_a_network_the_error_says_where_to_put_a_copy(server):
    missing = Published(f"http://127.0.0.1:{server.server_port}/absent.bin", "0" * 32)
    with pytest.raises(
        ConnectionError, match="404 Not Found. Fetch it where there is a network and put it at .*absent.bin"
    ):
        fetched(missing, quiet)
    closed = Published("http://127.0.0.1:9/absent.bin", "0" * 32)
    with pytest.raises(ConnectionError, match="cannot download .* or give the path of a copy"):
        fetched(closed, quiet)
