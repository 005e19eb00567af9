"""A schedule whose ticks were due while the daemon was away."""

import re

import pytest

from support.harness import wait_until

SCHEDULE = "every_minute_nothing"
SELECTOR = {
    "repositoryLocationName": "code_location",
    "repositoryName": "__repository__",
    "scheduleName": SCHEDULE,
}
SWITCH_ON = """mutation On($which: ScheduleSelector!) {
    startSchedule(scheduleSelector: $which) { __typename } }"""
TICKS = """query Ticks($which: InstigationSelector!) { instigationStateOrError(
    instigationSelector: $which) { ... on InstigationState { id ticks { status skipReason } } } }"""
SWITCH_OFF = "mutation Off($id: String!) { stopRunningSchedule(id: $id) { __typename } }"


@pytest.mark.whole
def test_the_last_five_due_ticks_are_launched_and_the_others_are_counted_on_its_page(stack):
    stack.compose("stop", "daemon")
    state = None
    which = {"name" if key == "scheduleName" else key: SELECTOR[key] for key in SELECTOR}

    def ticks():
        state = stack.graphql(TICKS, which=which)["instigationStateOrError"]
        return state["id"], [tick["skipReason"] for tick in state["ticks"]]

    try:
        stack.graphql(SWITCH_ON, which=SELECTOR)
        # As if it had been on for nine minutes and a half.
        began = "extract(epoch FROM date_trunc('minute', now())) - 570"
        stack.sql(
            "UPDATE instigators SET instigator_body = regexp_replace(instigator_body,"
            f" '\"start_timestamp\": [0-9.]+', '\"start_timestamp\": ' || {began})"
            f" WHERE instigator_body LIKE '%{SCHEDULE}%'"
        )
        stack.compose("start", "daemon")
        state, _ = ticks()
        found = wait_until(lambda: len(found := ticks()[1]) >= 6 and found, "the ticks")
    finally:
        stack.compose("start", "daemon")
        if state:
            stack.graphql(SWITCH_OFF, id=state)
        wait_until(stack.is_healthy, "the whole stack")
    launched = [reason for reason in found if reason.startswith("nothing at ")]
    (lost,) = set(found) - set(launched)
    assert len(launched) >= 5  # one more, if a minute begins meanwhile
    assert launched == sorted(launched, reverse=True)
    assert re.match(r"[4-9] ticks from ", lost), lost
    assert "are not launched late: the code server or the daemon was away" in lost
