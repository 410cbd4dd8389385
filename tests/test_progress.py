from fashiontl.reports.progress import duration


def test_duration() -> None:
    assert [duration(seconds) for seconds in (0, 89, 90, 3599, 3600, 90000)] == [
        "0 s",
        "89 s",
        "1 min",
        "59 min",
        "1 h 0 min",
        "25 h 0 min",
    ]
