"""The module in the place of torch's, and every operator in an ONNX graph, run by onnxruntime."""

import inspect

import numpy as np
import pytest
import torch

from alexnet_kernels import LocalResponseNorm, local_response_norm, relu_lrn, relu_lrn_maxpool


def test_the_module_takes_the_place_of_torchs():
    ours, theirs = (inspect.signature(module).parameters for module in (LocalResponseNorm, torch.nn.LocalResponseNorm))
    assert {name: ours[name].default for name in theirs} == {name: theirs[name].default for name in theirs}
    x = torch.randn(2, 8, 5, 7)
    for arguments in ((5,), (4, 1e-2, 0.5, 2.0)):
        torch.testing.assert_close(LocalResponseNorm(*arguments)(x), torch.nn.LocalResponseNorm(*arguments)(x))
        assert repr(LocalResponseNorm(*arguments)) == repr(torch.nn.LocalResponseNorm(*arguments))
    assert not LocalResponseNorm(5).state_dict()


def test_the_module_has_the_functions_own_arguments():
    x = torch.randn(2, 8, 5, 7)
    layer = LocalResponseNorm(3, 0.1, window="sum", groups=2, backend="reference")
    want = local_response_norm(x, 3, 0.1, window="sum", groups=2, backend="reference")
    assert torch.equal(layer(x), want)
    assert repr(layer).endswith("window='sum', groups=2, backend='reference')")


class Network(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.convolution, self.function = torch.nn.Conv2d(3, 8, 3), function

    def forward(self, x):
        return self.function(self.convolution(x) * 20)


FUNCTIONS = {
    "module": (LocalResponseNorm(5, 0.1), 1),
    "groups": (LocalResponseNorm(3, 0.1, window="sum", k=2.0, groups=2), 1),
    "even window": (LocalResponseNorm(4, 0.1), 0),
    "relu": (lambda x: relu_lrn(x, 5, 0.1), 1),
    "pooled": (lambda x: relu_lrn_maxpool(x, 5, 0.1), 1),
    "sequence": (lambda x: local_response_norm(x.flatten(2), 5, 0.1), 0),
}


@pytest.mark.filterwarnings("ignore")  # exporters and onnxruntime warn of their own affairs
@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
@pytest.mark.parametrize("case", FUNCTIONS)
def test_an_exported_onnx_graph_computes_the_same(case, dynamo, tmp_path):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    function, operators = FUNCTIONS[case]
    network = Network(function).eval()
    x, path = torch.randn(2, 3, 9, 11), tmp_path / "network.onnx"
    dynamic = {"dynamic_shapes": ({0: torch.export.Dim("n")},)} if dynamo else {"dynamic_axes": {"x": {0: "n"}}}
    torch.onnx.export(network, (x,), path, dynamo=dynamo, input_names=["x"], verbose=False, **dynamic)
    graph = onnx.load(path).graph
    assert [node.op_type for node in graph.node].count("LRN") == (operators if dynamo else 0)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (2, 5) if dynamo else (2,):
        x = torch.randn(batch, 3, 9, 11)
        (got,) = session.run(None, {"x": x.numpy()})
        np.testing.assert_allclose(got, network(x).detach().numpy(), rtol=1e-4, atol=1e-5)
