import io

from rich.console import Console

from lissom import progress
from lissom.progress import meter


def test_where_there_is_no_terminal_nothing_is_printed(capsys):
    with meter("work", 3) as bar:
        bar.advance()
        bar.advance(2, "note")
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_on_a_terminal_the_bar_counts_and_shows_the_note(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(
        progress, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=100)
    )
    with meter("work", 3) as bar:
        bar.advance(2, "layer1.conv")
        bar.advance()
    text = screen.getvalue()
    assert "work" in text
    assert "3/3" in text
    assert "layer1.conv" in text


def test_within_a_bar_there_is_no_other(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(
        progress, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=100)
    )
    with meter("branches", 2) as bar:
        with meter("sensitivity", 7) as inner:
            inner.advance(7)
        bar.advance(2)
    with meter("training", 1) as bar:
        bar.advance()
    text = screen.getvalue()
    assert "2/2" in text
    assert "sensitivity" not in text
    assert "training" in text


def test_a_bar_of_unknown_length_counts_what_is_done(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(
        progress, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=100)
    )
    with meter("cheaper levels", None) as bar:
        bar.advance(note="41,000 of 40,000 bytes")
        bar.advance()
    text = screen.getvalue()
    assert "2/?" in text
    assert "41,000 of 40,000 bytes" in text


def test_of_several_processes_the_first_one_talks(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(
        progress, "Console", lambda stderr: Console(file=screen, force_terminal=True)
    )
    assert progress.speaks()
    for variable, number in (("LOCAL_RANK", 1), ("RANK", 4)):
        monkeypatch.setenv(variable, str(number))
        assert progress.process_number() == number
        with meter("work", 1) as bar:
            bar.advance()
    assert screen.getvalue() == ""
    monkeypatch.setenv("RANK", "0")  # the first of all machines' processes
    assert progress.speaks()
