"""doctor never fails, whatever is missing or broken."""

import pytest

from convatlas import doctor
from convatlas.doctor import Finding, Missing, Probe, backends, examine


def test_everything_is_looked_for():
    findings = examine()
    assert [finding.name for finding in findings] == [probe.name for probe in doctor.PROBES]
    assert all(finding.ok is (finding.remedy == "") and finding.found for finding in findings)


def raising(error: Exception):
    def look(*arguments: object, **keywords: object) -> str:
        raise error

    return look


@pytest.mark.parametrize(
    "error, found",
    [
        (Missing("not installed"), "not installed"),
        (ImportError("libcuda.so.1: cannot open\nmore"), "broken: libcuda.so.1: cannot open"),
        (RuntimeError(), "broken: RuntimeError"),
        (OSError(5, "Input/output error"), "broken: [Errno 5] Input/output error"),
    ],
)
def test_what_is_missing_or_broken_is_a_finding(monkeypatch, error, found):
    monkeypatch.setattr(doctor, "PROBES", (Probe("x", raising(error), "y", "install x"),))
    assert examine() == [Finding("x", False, found, "y", "install x")]


def test_a_remedy_that_fails_is_no_failure(monkeypatch):
    probe = Probe("x", raising(Missing("gone")), "y", raising(ImportError("torch is broken")))
    monkeypatch.setattr(doctor, "PROBES", (probe,))
    assert examine()[0].remedy == "repair what is broken above"


def test_nothing_installed(monkeypatch):
    """Every module and package gone, no nvidia-smi, no library: findings, and a remedy for each."""
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor, "version", raising(doctor.PackageNotFoundError("gone")))
    monkeypatch.setattr(doctor.ctypes, "CDLL", raising(OSError("gone")))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor.subprocess, "run", raising(FileNotFoundError("nvidia-smi")))
    findings = examine()
    assert [finding.name for finding in findings if finding.ok] == ["Python"]
    assert all(finding.remedy for finding in findings[1:])
    assert all(how == "no: torch is missing" for how in backends(findings).values())


NAMES = ("torch", "triton", "GPU", "cuDNN", "CuPy", "NVRTC", "C++ compiler")


def found(**ok: bool) -> list[Finding]:
    return [Finding(name, ok.get(name, True), "", "") for name in NAMES]


@pytest.mark.parametrize(
    "ok, triton, cudnn",
    [
        ({}, "yes, on the GPU", "yes"),
        ({"GPU": False}, "yes, in Triton's interpreter", "no: needs a GPU"),
        ({"triton": False}, "no: triton is missing", "yes"),
        ({"cuDNN": False}, "yes, on the GPU", "no"),
    ],
)
def test_what_runs_where(ok, triton, cudnn):
    runs = backends(found(**ok))
    assert runs["triton"].startswith(triton) and runs["cudnn"].startswith(cudnn) and runs["numpy"].startswith("yes")


@pytest.mark.parametrize(
    "ok, cuda",
    [
        ({}, "yes, on the GPU"),
        ({"CuPy": False}, "no: CuPy missing"),
        ({"CuPy": False, "NVRTC": False}, "no: CuPy and NVRTC missing"),
        ({"GPU": False}, "yes, compiled for the CPU"),
        ({"GPU": False, "C++ compiler": False}, "no: a C++ compiler is missing"),
    ],
)
def test_where_the_cuda_kernels_run(ok, cuda):
    assert backends([Finding(name, ok.get(name, True), "", "") for name in NAMES])["cuda"].startswith(cuda)
