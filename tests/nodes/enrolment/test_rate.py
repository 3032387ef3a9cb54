"""Strangers may fail a few times from one address, and all of them together try so often a second."""

from __future__ import annotations

from nodes.enrolment.rate import Allowance, Rate


def test_an_allowance_is_used_up_and_grows_back() -> None:
    allowance = Allowance(2, 10.0, 0.0)
    for _ in range(2):
        assert allowance.wait(0.0) == 0
        allowance.take()
    assert allowance.wait(0.0) == 10
    assert allowance.wait(4.0) == 6
    assert allowance.wait(10.0) == 0
    assert not allowance.is_full(19.0)
    assert allowance.is_full(20.0)
    assert allowance.is_full(1000.0)


def test_ten_failures_from_an_address_and_it_has_to_wait_while_others_come_in() -> None:
    rate = Rate(0.0)
    for _ in range(10):
        assert rate.attempt("192.0.2.1", 0.0) == 0
        rate.failed("192.0.2.1", 0.0)
    assert rate.attempt("192.0.2.1", 0.0) == 6
    assert rate.attempt("192.0.2.2", 0.0) == 0
    assert rate.attempt("192.0.2.1", 6.0) == 0


def test_who_does_not_fail_is_limited_only_with_all_others() -> None:
    rate = Rate(0.0)
    assert [rate.attempt("192.0.2.1", 0.0) for _ in range(51)] == [0] * 50 + [1]
    assert rate.attempt("192.0.2.9", 0.0) == 1
    assert rate.attempt("192.0.2.9", 0.1) == 0


def test_an_ipv6_network_is_one_address_and_a_mapped_one_is_the_ipv4_address() -> None:
    rate = Rate(0.0)
    for number in range(10):
        rate.failed(f"2001:db8::{number}", 0.0)
    assert rate.attempt("2001:db8::ffff", 0.0) == 6
    assert rate.attempt("2001:db8:0:1::1", 0.0) == 0
    for _ in range(10):
        rate.failed("192.0.2.1", 0.0)
    assert rate.attempt("::ffff:192.0.2.1", 0.0) == 6
    assert rate.attempt("gone", 0.0) == 0


def test_a_flood_of_addresses_is_not_remembered_for_ever() -> None:
    rate = Rate(0.0)
    for number in range(10_050):
        rate.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)
    assert len(rate._failures) <= 10_000
    rate.failed("192.0.2.1", 60.0)
    assert len(rate._failures) == 1
