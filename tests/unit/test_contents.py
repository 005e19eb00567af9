"""What a deploy says of the definitions that were added and removed."""

from support.cli import contents


def of(*assets):
    return contents.Contents(
        {"jobs": set(), "assets": set(assets), "schedules": set(), "sensors": set()}, {}, set()
    )


def test_of_many_names_the_first_are_shown_each_on_the_same_line():
    old, new = of("kept", "gone"), of("kept", *(f"a{n:02}" for n in range(30)))
    added, removed = contents.changes(old, new)
    assert added == f"assets added: {', '.join(f'a{n:02}' for n in range(20))} and 10 more"
    assert removed == "assets removed: gone"
    assert contents.changes(of(), of("two\nlines")) == ["assets added: two lines"]
