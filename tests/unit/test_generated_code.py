"""Generated code is what its proto says: whoever changes one has to make the other again."""

from pathlib import Path

from grpc_tools import protoc

PROTO = Path(__file__).parents[2] / "proto"


def test_the_generated_code_is_made_from_the_proto_beside_it(tmp_path):
    kinds = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    assert protoc.main(["protoc", f"-I{PROTO}", *kinds, "idp/build/v1/build.proto"]) == 0
    made = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.py*")}
    kept = {
        path.relative_to(PROTO) for path in PROTO.rglob("*_pb2*.py*") if "pycache" not in str(path)
    }
    assert made == kept
    for path in made:
        assert (PROTO / path).read_text() == (tmp_path / path).read_text(), "run `make proto`"
