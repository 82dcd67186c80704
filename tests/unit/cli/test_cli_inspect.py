import pytest

from lissom.cli.app import run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "inspect needs a network and the shape of its input"),
        (["--model", "lissom:resnet8"], "inspect needs a network and the shape"),
        (["--model", "lissom:resnet8", "--input", "3by4"], "3by4"),
        (["--model", "lissom:resnet9", "--input", "1x3x32x32"], "did you mean lissom:resnet"),
        (
            ["--model", "lissom:resnet8", "--input", "1x3x32x32", "--weights", "gone.pt"],
            "gone.pt",
        ),
    ],
)
def test_bad_input_is_explained(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", *arguments]) == 2
    assert message in capsys.readouterr().err
