import hashlib

from lissom.report.provenance import gather_provenance


def test_names_versions_machine_and_plan() -> None:
    given = gather_provenance(7, '{"plan": 1}', {"capture": 1.23456}, device="cpu")
    assert given.seed == 7
    assert given.plan_hash == hashlib.sha256(b'{"plan": 1}').hexdigest()
    assert given.versions.keys() >= {"python", "lissom", "torch", "onnxruntime"}
    assert given.machine["device"] == "cpu"
    assert given.machine["threads"] >= 1
    assert given.seconds == {"capture": 1.235}
    assert given.created.endswith("+00:00")
