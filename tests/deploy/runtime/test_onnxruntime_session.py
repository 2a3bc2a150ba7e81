"""Sessions of ONNX Runtime: exact sums of INT8 where it has kernels for them, and the others where it fails."""

import pytest

onnxruntime = pytest.importorskip("onnxruntime")

from effedge.deploy.runtime import onnxruntime_backend as module  # noqa: E402  # after the skip


@pytest.fixture
def made(monkeypatch):
    """Takes the place of InferenceSession; a list of the option's value at each call."""
    values = []

    def session(model, options, **_):
        try:
            values.append(options.get_session_config_entry(module.EXACT_SUMS))
        except RuntimeError:  # it is not there
            values.append(None)
        if model == b"broken" or (model == b"shared weights" and values[-1] == "1"):
            raise RuntimeError("Attempt to replace the existing tensor")
        return options.log_severity_level

    monkeypatch.setattr(module.onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(module, "has_vnni", lambda: False)
    module.say_saturating.cache_clear()
    return values


def make(model):
    def new_options():
        options = onnxruntime.SessionOptions()
        options.log_severity_level = module.LOG_ERRORS
        return options

    return module.make_session(model, new_options, fp8=False)


def test_sums_are_exact(made, caplog):
    make(b"model")
    assert made == ["1"] and not caplog.messages


def test_a_cpu_whose_sums_are_exact_needs_no_other_kernels(made, monkeypatch, caplog):
    monkeypatch.setattr(module, "has_vnni", lambda: True)
    make(b"shared weights")
    assert made == [None] and not caplog.messages


def test_where_layers_share_weights_sums_may_saturate_and_one_line_says_so(made, caplog, capfd):
    caplog.set_level("INFO", logger="effedge")
    assert [make(b"shared weights"), make(b"shared weights")] == [module.LOG_ERRORS] * 2
    assert made == ["1", None] * 2
    [line] = caplog.messages
    assert "may saturate" in line and "\n" not in line
    assert capfd.readouterr().err == ""


def test_a_broken_models_error_is_raised(made, caplog):
    with pytest.raises(RuntimeError, match="existing tensor"):
        make(b"broken")
    assert not caplog.messages
