from __future__ import annotations

import gc
import sys
from dataclasses import replace
from itertools import count

import pytest

from llamatelemetry.errors import IntegrityError, InvalidRequestError
from llamatelemetry.inference.decisions import Accepted, Admission, Cancelled, Expired, Rejected, Ticket
from llamatelemetry.inference.kv_cache import PagedKVCache
from llamatelemetry.inference.places import SlotGroup
from llamatelemetry.inference.policy import FIFO, SchedulerConfig
from llamatelemetry.inference.scheduler import RequestScheduler
from llamatelemetry.inference.tokens import pack_tokens


class Desk:
    """A scheduler, driven by hand: submits, serves one at a time, and remembers the order."""

    def __init__(self, config: SchedulerConfig, slots: int = 1, kv: PagedKVCache | None = None) -> None:
        self.scheduler = RequestScheduler(config, SlotGroup(slots, kv))
        self.now = 0.0
        self.numbers = count()
        self.order: list[Admission] = []

    def submit(self, prompt_tokens: int = 10, max_tokens: int = 10, **fields):
        number = next(self.numbers)
        ticket = Ticket(id=number, prompt_tokens=prompt_tokens, max_tokens=max_tokens, submitted=self.now, **fields)
        return self.scheduler.submit(ticket, self.now)

    def say(self, *tokens: int, **fields):
        return self.submit(len(tokens), tokens=pack_tokens(tokens), **fields)

    def admit(self) -> list[Admission | Expired]:
        decisions = self.scheduler.admit(self.now)
        self.order += [decision for decision in decisions if isinstance(decision, Admission)]
        self.scheduler.check_integrity()
        return decisions

    def finish(self, admission: Admission, after_s: float = 0.0, **said) -> None:
        self.now += after_s
        self.scheduler.prompt_computed(admission.ticket.id)
        self.scheduler.finish(admission.ticket.id, self.now, **said)

    def serve(self, requests: int, each_s: float = 0.0) -> list[Admission]:
        """Runs that many requests, one after the other on one slot."""
        served = []
        for _ in range(requests):
            (admission,) = [one for one in self.admit() if isinstance(one, Admission)]
            self.finish(admission, each_s)
            served.append(admission)
        return served

    def serve_ids(self, requests: int, each_s: float = 0.0) -> list[int]:
        return [admission.ticket.id for admission in self.serve(requests, each_s)]


PLAIN = SchedulerConfig(ageing_s=None, prefix_window=0)


def test_with_every_policy_off_requests_run_in_order_of_arrival() -> None:
    desk = Desk(FIFO)
    for number in range(6):
        desk.submit(priority=-number, tenant=str(number % 2), deadline=100.0 - number)
    assert desk.serve_ids(6) == list(range(6))


def test_the_more_urgent_level_runs_first() -> None:
    desk = Desk(PLAIN)
    for priority in (2, 0, 1, 0):
        desk.submit(priority=priority)
    assert desk.serve_ids(4) == [1, 3, 2, 0]


def test_no_more_run_than_there_are_slots() -> None:
    desk = Desk(PLAIN, slots=3)
    for _ in range(5):
        desk.submit()
    first = desk.admit()
    assert len(first) == 3
    assert sorted(admission.slot for admission in desk.order) == [0, 1, 2]
    assert desk.admit() == []
    desk.finish(desk.order[1])
    (next_one,) = desk.admit()
    assert isinstance(next_one, Admission)
    assert (next_one.ticket.id, next_one.slot) == (3, 1)


def test_an_aged_level_gets_one_of_every_few_admissions_and_no_more() -> None:
    desk = Desk(SchedulerConfig(ageing_s=5.0, aged_every=4, prefix_window=0), slots=1)
    for _ in range(3):
        desk.submit(priority=9)
    for _ in range(40):
        desk.submit(priority=0)
    reasons = []
    for _ in range(24):
        desk.submit(priority=0)
        reasons += [admission.reason for admission in desk.serve(1, each_s=1.0)]
    # Nothing is overdue until five seconds have passed; then one in four, until level 9 is empty.
    assert "aged" not in reasons[:6]
    aged = [index for index, reason in enumerate(reasons) if reason == "aged"]
    assert aged == [6, 10, 14]


def test_a_request_of_a_starved_level_is_admitted_within_its_bound() -> None:
    every, older = 3, 4
    desk = Desk(SchedulerConfig(ageing_s=5.0, aged_every=every, earliest_deadline_first=False, prefix_window=0))
    for _ in range(older):
        desk.submit(priority=5)
    last = desk.submit(priority=7)
    desk.now = 5.1
    admissions = 0
    while last.ticket.id not in [admission.ticket.id for admission in desk.order]:
        desk.submit(priority=0)
        desk.serve(1)
        admissions += 1
    assert admissions == every * (older + 1)


def test_without_ageing_a_level_starves() -> None:
    desk = Desk(PLAIN)
    desk.submit(priority=1)
    for _ in range(50):
        desk.submit(priority=0)
        desk.now += 1000
        assert desk.serve_ids(1) != [0]


def test_of_several_aged_levels_the_one_that_waits_longest_goes_first() -> None:
    desk = Desk(SchedulerConfig(ageing_s=1.0, aged_every=2, prefix_window=0))
    desk.submit(priority=5)
    desk.now = 0.5
    desk.submit(priority=3)
    desk.now = 9.0
    for _ in range(6):
        desk.submit(priority=0)
    assert desk.serve_ids(4) == [2, 0, 3, 1]


def test_ageing_lifts_a_level_and_leaves_its_tenants_their_turns() -> None:
    desk = Desk(SchedulerConfig(ageing_s=1.0, aged_every=2, quantum=1, prefix_window=0))
    for tenant in "aaab":
        desk.submit(priority=5, tenant=tenant)
    desk.now = 9.0
    for _ in range(8):
        desk.submit(priority=0)
    lifted = [admission for admission in desk.serve(8) if admission.ticket.priority == 5]
    assert [admission.ticket.tenant for admission in lifted] == ["a", "b", "a", "a"]


def test_tenants_share_by_tokens_and_not_by_requests() -> None:
    desk = Desk(SchedulerConfig(quantum=50, ageing_s=None, prefix_window=0))
    for _ in range(60):
        desk.submit(90, 10, tenant="large")
    for _ in range(600):
        desk.submit(5, 5, tenant="small")
    served = {"large": 0, "small": 0}
    for admission in desk.serve(220):
        served[admission.ticket.tenant] += admission.ticket.prompt_tokens + admission.ticket.max_tokens
        assert abs(served["large"] - served["small"]) <= 2 * 50 + 100 + 10


def test_a_tenant_of_more_weight_is_served_more() -> None:
    desk = Desk(SchedulerConfig(quantum=20, weights={"paying": 3.0}, ageing_s=None, prefix_window=0))
    for _ in range(400):
        desk.submit(tenant="paying")
        desk.submit(tenant="free")
    paying = sum(1 for admission in desk.serve(400) if admission.ticket.tenant == "paying")
    assert paying == pytest.approx(300, abs=4)


def test_a_tenant_that_comes_back_has_not_saved_anything_up() -> None:
    desk = Desk(SchedulerConfig(quantum=20, ageing_s=None, prefix_window=0))
    for _ in range(100):
        desk.submit(tenant="busy")
    desk.serve(50)
    for _ in range(50):
        desk.submit(tenant="returning")
    tenants = [admission.ticket.tenant for admission in desk.serve(20)]
    assert abs(tenants.count("busy") - tenants.count("returning")) <= 2


def test_a_tenant_that_takes_one_large_request_after_another_pays_for_each() -> None:
    desk = Desk(SchedulerConfig(quantum=20, ageing_s=None, prefix_window=0))
    for _ in range(400):
        desk.submit(10, 10, tenant="small")
    large = 0
    for _ in range(200):
        if not any(entry.ticket.tenant == "large" for entry in desk.scheduler._waiting.values()):
            desk.submit(100, 100, tenant="large")
        (admission,) = desk.serve(1)
        large += admission.ticket.tenant == "large"
    assert large * 200 == pytest.approx((200 - large) * 20, rel=0.15)


def test_cancelling_does_not_pay_a_tenants_debt() -> None:
    desk = Desk(SchedulerConfig(quantum=20, ageing_s=None, prefix_window=0))
    for _ in range(30):
        desk.submit(10, 10, tenant="small")
    desk.submit(100, 100, tenant="large")
    while desk.serve(1)[0].ticket.tenant != "large":
        pass
    cancelled = desk.submit(100, 100, tenant="large")
    desk.scheduler.cancel(cancelled.ticket.id)
    desk.submit(10, 10, tenant="large")
    # 200 tokens are ten turns of 20.
    tenants = [admission.ticket.tenant for admission in desk.serve(12)]
    assert tenants.index("large") >= 8


def test_the_earliest_deadline_runs_first_and_requests_without_one_last() -> None:
    desk = Desk(PLAIN)
    for deadline in (None, 30.0, 10.0, None, 20.0):
        desk.submit(deadline=deadline)
    assert desk.serve_ids(5) == [2, 4, 1, 0, 3]


def test_deadlines_do_not_starve_a_request_without_one() -> None:
    desk = Desk(SchedulerConfig(ageing_s=5.0, aged_every=4, prefix_window=0))
    desk.submit()
    desk.now = 6.0
    for _ in range(4):
        desk.submit(deadline=desk.now + 1)
    assert desk.serve_ids(4) == [1, 2, 3, 0]


def test_a_request_whose_deadline_passed_is_not_admitted() -> None:
    desk = Desk(FIFO)
    for deadline in (5.0, None, 3.0):
        desk.submit(deadline=deadline)
    desk.now = 4.0
    expired, admission = desk.admit()
    assert isinstance(expired, Expired)
    assert (expired.ticket.id, expired.waited_s) == (2, 4.0)
    assert isinstance(admission, Admission)
    assert admission.ticket.id == 0
    assert desk.scheduler.stats().expired == 1


def test_a_request_is_admitted_at_its_deadline_and_expires_after_it() -> None:
    desk = Desk(FIFO, slots=2)
    desk.submit(deadline=5.0)
    desk.now = 5.0
    assert [type(decision) for decision in desk.admit()] == [Admission]
    desk.submit(deadline=6.0)
    desk.now = 6.001
    assert [type(decision) for decision in desk.scheduler.expire(desk.now)] == [Expired]


def test_a_request_whose_prefix_a_slot_knows_goes_first() -> None:
    system = list(range(100, 120))
    desk = Desk(SchedulerConfig(fair_tenants=False))
    desk.say(*system, 1)
    desk.serve(1)
    desk.say(*range(200, 230))
    desk.say(*system, 2)
    first, second = desk.serve(2)
    assert (first.ticket.id, first.reason, first.cached_estimate) == (2, "prefix", 20)
    assert (second.ticket.id, second.reason, second.cached_estimate) == (1, "next", 0)


def test_a_request_is_passed_over_for_prefixes_a_bounded_number_of_times() -> None:
    system = list(range(100, 120))
    desk = Desk(SchedulerConfig(max_bypass=3, ageing_s=None))
    desk.say(*system, 0)
    desk.serve(1)
    desk.say(*range(200, 230))
    for number in range(6):
        desk.say(*system, number)
    assert desk.serve_ids(4) == [2, 3, 4, 1]


def test_a_prefix_hardly_longer_changes_no_order() -> None:
    desk = Desk(SchedulerConfig(min_prefix_gain=16))
    desk.say(*range(100, 115))
    desk.serve(1)
    desk.say(*range(200, 230))
    desk.say(*range(100, 115), 2)
    assert desk.serve_ids(2) == [1, 2]


def test_a_request_with_a_deadline_is_not_passed_over_for_a_prefix() -> None:
    system = list(range(100, 120))
    desk = Desk(SchedulerConfig(earliest_deadline_first=False))
    desk.say(*system, 1)
    desk.serve(1)
    desk.say(*range(200, 230), deadline=50.0)
    desk.say(*system, 2)
    assert desk.serve_ids(2) == [1, 2]


def test_prefixes_beyond_the_window_are_not_looked_at() -> None:
    system = list(range(100, 120))
    desk = Desk(SchedulerConfig(prefix_window=2))
    desk.say(*system, 1)
    desk.serve(1)
    for first in (200, 300):
        desk.say(*range(first, first + 30))
    desk.say(*system, 2)
    assert desk.serve_ids(1) == [1]


def test_a_slot_is_believed_to_hold_a_prompt_only_once_it_was_computed() -> None:
    desk = Desk(FIFO, slots=1)
    desk.say(*range(50))
    (admission,) = desk.admit()
    desk.scheduler.finish(0, desk.now)
    desk.say(*range(50))
    (again,) = desk.admit()
    assert isinstance(admission, Admission)
    assert isinstance(again, Admission)
    assert again.cached_estimate == 0


def test_the_last_prompt_token_is_never_estimated_as_cached() -> None:
    desk = Desk(FIFO)
    for _ in range(2):
        desk.say(*range(50))
    assert [admission.cached_estimate for admission in desk.serve(2)] == [0, 49]


def test_what_a_slot_holds_after_an_answer_may_be_told() -> None:
    desk = Desk(FIFO)
    desk.say(*range(20))
    (admission,) = desk.admit()
    assert isinstance(admission, Admission)
    desk.finish(admission, held=pack_tokens(range(30)))
    desk.say(*range(40))
    assert [admission.cached_estimate for admission in desk.serve(1)] == [30]


def test_pages_are_reserved_for_the_whole_request_and_given_back() -> None:
    kv = PagedKVCache(8, 16)
    desk = Desk(FIFO, slots=4, kv=kv)
    desk.submit(20, 30)
    (admission,) = desk.admit()
    assert isinstance(admission, Admission)
    assert admission.reservation is not None
    assert admission.reservation.pages == 4
    desk.finish(admission)
    assert kv.stats().used == 0


def test_a_large_request_that_waits_for_pages_is_not_overtaken_by_a_small_one() -> None:
    desk = Desk(FIFO, slots=4, kv=PagedKVCache(8, 16))
    desk.submit(50, 14)
    (running,) = desk.admit()
    desk.submit(100, 20)
    desk.submit(5, 5)
    assert desk.admit() == []
    assert isinstance(running, Admission)
    desk.finish(running)
    (large,) = desk.admit()
    assert large.ticket.id == 1


def test_where_one_group_has_no_pages_left_another_runs_the_request() -> None:
    scheduler = RequestScheduler(
        SchedulerConfig(), SlotGroup(2, PagedKVCache(4, 16)), SlotGroup(2, PagedKVCache(4, 16))
    )

    def submit(number: int, prompt_tokens: int) -> None:
        tokens = pack_tokens(range(prompt_tokens))
        scheduler.submit(
            Ticket(id=number, prompt_tokens=prompt_tokens, max_tokens=1, submitted=0.0, tokens=tokens), 0.0
        )

    def slots() -> list[int]:
        return [decision.slot for decision in scheduler.admit(0.0) if isinstance(decision, Admission)]

    submit(0, 20)
    assert slots() == [0]
    scheduler.prompt_computed(0)
    scheduler.finish(0, 0.0)
    submit(1, 40)
    submit(2, 40)
    submit(3, 40)
    # The first knows slot 0; the second would know it too if it were idle, and the third fits nowhere.
    assert slots() == [0, 2]
    scheduler.finish(1, 0.0)
    assert slots() == [1]
    scheduler.check_integrity()


def test_shared_pages_are_estimated_by_the_cache_and_others_by_the_slot() -> None:
    prompt = list(range(40))
    for shared_pages, expected in ((True, 32), (False, 0)):
        config = SchedulerConfig(shared_pages=shared_pages)
        desk = Desk(config, slots=2, kv=PagedKVCache(100, 16))
        desk.say(*prompt)
        (first,) = desk.admit()
        desk.scheduler.prompt_computed(first.ticket.id)
        desk.say(*prompt)
        (second,) = desk.admit()
        assert isinstance(second, Admission)
        assert second.cached_estimate == expected


def test_an_answer_never_reserves_more_than_a_slot_can_hold() -> None:
    desk = Desk(SchedulerConfig(context_length=64), kv=PagedKVCache(100, 16))
    desk.submit(50, 10_000)
    (admission,) = desk.admit()
    assert isinstance(admission, Admission)
    assert admission.reservation is not None
    assert admission.reservation.pages == 4


@pytest.mark.parametrize(("context_length", "kv"), [(64, None), (None, PagedKVCache(4, 16)), (64, PagedKVCache(9, 16))])
def test_a_prompt_that_leaves_no_room_for_a_token_is_rejected(context_length, kv) -> None:
    desk = Desk(SchedulerConfig(context_length=context_length), kv=kv)
    rejected = desk.submit(64, 1)
    assert isinstance(rejected, Rejected)
    assert (rejected.reason, rejected.depth, rejected.limit) == ("context_overflow", 64, 64)
    assert isinstance(desk.submit(63, 1), Accepted)


def test_a_deadline_that_has_passed_is_rejected_at_once() -> None:
    desk = Desk(FIFO)
    desk.now = 5.0
    rejected = desk.submit(deadline=4.9)
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "deadline_passed"


def test_a_full_queue_says_how_full_and_when_to_come_back() -> None:
    desk = Desk(SchedulerConfig(max_waiting=3))
    for _ in range(3):
        desk.submit()
    rejected = desk.submit()
    assert isinstance(rejected, Rejected)
    assert (rejected.reason, rejected.depth, rejected.limit) == ("queue_full_requests", 3, 3)
    assert rejected.retry_after_s is None
    desk.serve(2, each_s=4.0)
    for _ in range(2):
        desk.submit()
    later = desk.submit()
    assert isinstance(later, Rejected)
    assert later.retry_after_s == pytest.approx(4.0)


def test_a_queue_full_of_tokens_says_when_there_is_room_for_so_many() -> None:
    desk = Desk(SchedulerConfig(max_waiting_tokens=100))
    for _ in range(5):
        desk.submit(10, 10)
    desk.serve(2, each_s=1.0)
    for _ in range(2):
        desk.submit(10, 10)
    rejected = desk.submit(50, 10)
    assert isinstance(rejected, Rejected)
    assert (rejected.reason, rejected.depth, rejected.limit) == ("queue_full_tokens", 100, 100)
    assert rejected.retry_after_s == pytest.approx(3.0)
    hopeless = desk.submit(100, 10)
    assert isinstance(hopeless, Rejected)
    assert hopeless.retry_after_s is None


def test_idle_time_does_not_slow_the_pace_that_retries_are_told() -> None:
    desk = Desk(SchedulerConfig(max_waiting=3))
    for _ in range(3):
        desk.submit()
    desk.serve(3, each_s=1.0)
    desk.now += 1000.0
    for _ in range(3):
        desk.submit()
    desk.serve(3, each_s=1.0)
    assert desk.scheduler.stats().retry_after_s == pytest.approx(1.0)


def test_a_waiting_request_is_cancelled_at_once_and_a_running_one_keeps_its_slot() -> None:
    desk = Desk(FIFO)
    for _ in range(3):
        desk.submit()
    (running,) = desk.admit()
    waiting = desk.scheduler.cancel(1)
    assert waiting is not None
    assert waiting.was == "waiting"
    marked = desk.scheduler.cancel(0)
    assert marked is not None
    assert marked.was == "running"
    assert desk.scheduler.cancel(0) is None
    assert desk.scheduler.cancel(1) is None
    assert desk.scheduler.cancel(99) is None
    assert desk.admit() == []
    finished = desk.scheduler.finish(running.ticket.id, 1.5)
    assert (finished.cancelled, finished.ran_s) == (True, 1.5)
    (last,) = desk.admit()
    assert last.ticket.id == 2


def test_draining_lets_nothing_in_and_what_waits_run() -> None:
    desk = Desk(FIFO)
    desk.submit()
    desk.scheduler.drain()
    rejected = desk.submit()
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "closed"
    assert not desk.scheduler.idle
    assert desk.serve_ids(1) == [0]
    assert desk.scheduler.idle


def test_closing_cancels_what_waits_in_order_of_arrival() -> None:
    desk = Desk(PLAIN)
    for priority in (1, 0, 2):
        desk.submit(priority=priority)
    desk.admit()
    cancelled = desk.scheduler.close()
    assert all(isinstance(one, Cancelled) for one in cancelled)
    assert [one.ticket.id for one in cancelled] == [0, 2]
    assert isinstance(desk.submit(), Rejected)
    assert desk.scheduler.stats().running == 1


def test_misuse_is_noticed() -> None:
    desk = Desk(FIFO)
    ticket = Ticket(id=1, prompt_tokens=1, max_tokens=1, submitted=0.0)
    desk.scheduler.submit(ticket, 0.0)
    with pytest.raises(IntegrityError, match="twice"):
        desk.scheduler.submit(ticket, 0.0)
    with pytest.raises(IntegrityError, match="does not run"):
        desk.scheduler.finish(1, 0.0)
    with pytest.raises(IntegrityError, match="does not run"):
        desk.scheduler.prompt_computed(1)
    for field in ("prompt_tokens", "max_tokens"):
        numbers = {"prompt_tokens": 1, "max_tokens": 1, field: 0}
        with pytest.raises(InvalidRequestError):
            desk.scheduler.submit(Ticket(id=2, submitted=0.0, **numbers), 0.0)


def test_reported_and_estimated_cached_tokens_are_told_apart() -> None:
    desk = Desk(replace(FIFO, shared_pages=True), kv=PagedKVCache(100, 16))
    for _ in range(2):
        desk.say(*range(40))
    for _ in range(2):
        (admission,) = desk.admit()
        assert isinstance(admission, Admission)
        desk.finish(admission, cached_tokens=25 if admission.cached_estimate else 0)
    (group,) = desk.scheduler.stats().groups
    assert (group.estimated_cached_tokens, group.reported_cached_tokens, group.reported_prompt_tokens) == (32, 25, 80)
    assert group.kv is not None
    assert group.kv.reported_hit_tokens == 25


def test_what_was_found_is_a_share_of_the_prompt_that_the_backend_counted_and_not_of_an_estimate() -> None:
    desk = Desk(FIFO, kv=PagedKVCache(100, 16))
    desk.submit(prompt_tokens=10)  # tools, which no estimate looks into, made it 500
    (admission,) = desk.admit()
    assert isinstance(admission, Admission)
    desk.finish(admission, cached_tokens=480, prompt_tokens=500)
    (group,) = desk.scheduler.stats().groups
    assert (group.reported_cached_tokens, group.reported_prompt_tokens) == (480, 500)
    assert group.kv is not None
    assert group.kv.reported_hit_ratio == 480 / 500


def test_the_figures_count_every_decision() -> None:
    desk = Desk(SchedulerConfig(max_waiting=2, ageing_s=None))
    desk.submit(deadline=1.0)
    desk.submit()
    desk.submit()
    desk.now = 2.0
    desk.admit()
    desk.submit()
    desk.submit()
    desk.scheduler.cancel(3)
    stats = desk.scheduler.stats()
    assert (stats.accepted, stats.rejected) == (4, {"queue_full_requests": 1})
    assert (stats.admitted, stats.expired) == ({"next": 1}, 1)
    assert (stats.waiting, stats.running, stats.slots) == (1, 1, 1)
    assert (stats.waiting_tokens, stats.cancelled_waiting, stats.cancelled_running) == (20, 1, 0)


def test_requests_that_come_and_go_while_one_runs_leave_nothing_behind() -> None:
    """Cancelled and expired entries would otherwise pile up in the heaps until they surface."""
    desk = Desk(SchedulerConfig(max_waiting=100_000))
    desk.submit()
    desk.admit()
    desk.submit(deadline=1e9)

    def churn(rounds: int) -> None:
        for number in range(rounds):
            accepted = desk.submit(
                tenant=str(desk.now), priority=int(desk.now), deadline=None if number % 2 else desk.now + 1e6
            )
            desk.scheduler.cancel(accepted.ticket.id)
            desk.now += 1
        gc.collect()

    churn(1000)
    before = sys.getallocatedblocks()
    churn(5000)
    assert sys.getallocatedblocks() - before < 500
    desk.scheduler.check_integrity()


def test_a_request_put_back_runs_before_all_others_of_its_kind_and_is_counted() -> None:
    desk = Desk(FIFO)
    for _ in range(3):
        desk.say(1, 2)
    (first,) = desk.admit()
    assert isinstance(first, Admission)
    desk.finish(first)
    desk.scheduler.put_back(first.ticket)
    desk.scheduler.check_integrity()
    (again,) = desk.admit()
    assert isinstance(again, Admission)
    assert again.ticket == first.ticket
    with pytest.raises(IntegrityError):
        desk.scheduler.put_back(first.ticket)
    desk.finish(again)
    assert desk.scheduler.stats().waiting == 2


def test_a_group_whose_backend_is_gone_runs_nothing_until_it_is_back() -> None:
    scheduler = RequestScheduler(FIFO, SlotGroup(1), SlotGroup(1))
    for number in range(4):
        scheduler.submit(Ticket(id=number, prompt_tokens=1, max_tokens=1, submitted=0.0), 0.0)
    first, second = scheduler.admit(0.0)
    assert isinstance(first, Admission)
    assert isinstance(second, Admission)
    assert {first.slot, second.slot} == {0, 1}
    scheduler.withdraw(0)
    for each in (first, second):
        scheduler.finish(each.ticket.id, 1.0)
    (third,) = scheduler.admit(1.0)
    assert isinstance(third, Admission)
    assert third.slot == 1
    scheduler.check_integrity()
    scheduler.restore(0)
    (fourth,) = scheduler.admit(1.0)
    assert isinstance(fourth, Admission)
    assert fourth.slot == 0


def test_an_answer_gets_more_room_while_there_is_some() -> None:
    scheduler = RequestScheduler(FIFO, SlotGroup(2, PagedKVCache(4, 16)))
    for number in range(2):
        scheduler.submit(Ticket(id=number, prompt_tokens=8, max_tokens=8, submitted=0.0), 0.0)
    assert len(scheduler.admit(0.0)) == 2
    assert scheduler.grow(0, 40)
    assert not scheduler.grow(1, 40)
    scheduler.check_integrity()
    assert [group.kv and group.kv.used for group in scheduler.stats().groups] == [4]
    scheduler.finish(0, 1.0)
    assert scheduler.grow(1, 40)
    scheduler.finish(1, 1.0)
    assert [group.kv and group.kv.used for group in scheduler.stats().groups] == [0]
    with pytest.raises(IntegrityError):
        scheduler.grow(1, 40)
