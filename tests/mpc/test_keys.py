"""A key statement is believed only when every one of its claims holds."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mpc.errors import Answer, MessageRefused
from mpc.keys import CLOCK_SKEW, MAX_LIFETIME, PURPOSE, KeyStatement, RoundKey, _read_statement, check_statement, publish
from mpc.messages import Ready
from mpc.signature import sha256, sign_digest, tagged_digest
from mpc.statement import Signed, sign
from mpc.wire import encode
from tests.mpc.nodes import HOSPITAL, NOW, credential, keyring, patient

ALICE = patient("alice")
START = int(NOW)


@cache
def public(bits: int, exponent: int = 65537) -> rsa.RSAPublicKey:
    return rsa.generate_private_key(exponent, bits).public_key()


def spki(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def statement(
    der: bytes | None = None,
    *,
    node: str = ALICE.uri,
    key_id: bytes | None = None,
    not_before: int = START - 300,
    not_after: int = START + 3600,
) -> Signed:
    """Alice's, correctly signed, whatever it says."""
    der = spki(public(2048)) if der is None else der
    content = KeyStatement(node, sha256(der) if key_id is None else key_id, der, not_before, not_after)
    return sign(keyring(ALICE).signing_key, PURPOSE, content)


def refused(signed: Signed, now: float = NOW) -> bool:
    try:
        check_statement(signed, credential(ALICE), now)
    except MessageRefused as error:
        # Whatever is wrong, one reason; another one is a failure of the test.
        return (error.answer, error.reason) == (Answer.REFUSED, "key-statement") or fail(error)
    return False


def fail(error: MessageRefused) -> bool:
    raise AssertionError(error.reason) from error


def test_a_good_statement_gives_the_key() -> None:
    key = check_statement(statement(), credential(ALICE), NOW)

    assert (key.node, key.key_id) == (ALICE, sha256(spki(public(2048))))
    assert key.public_key.public_numbers() == public(2048).public_numbers()


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_allowed_sizes_are_taken(bits: int) -> None:
    modulus = public(2048).public_numbers().n if bits == 2048 else (1 << bits) - 159
    assert not refused(statement(spki(rsa.RSAPublicNumbers(65537, modulus).public_key())))


@pytest.mark.parametrize("bits", [1024, 2047, 2040, 4097, 8192])
def test_other_sizes_are_refused(bits: int) -> None:
    der = spki(public(1024)) if bits == 1024 else spki(rsa.RSAPublicNumbers(65537, (1 << bits) - 159).public_key())
    assert refused(statement(der))


@pytest.mark.parametrize("exponent", [3, 17, 65539])
def test_another_exponent_is_refused(exponent: int) -> None:
    assert refused(statement(spki(rsa.RSAPublicNumbers(exponent, public(2048).public_numbers().n).public_key())))


def test_a_modulus_that_nobody_can_encrypt_to_is_refused() -> None:
    """An even modulus loads, and then every encryption fails: the failure must come here, not in the middle of a round."""
    even = rsa.RSAPublicNumbers(65537, public(2048).public_numbers().n + 1).public_key()
    assert refused(statement(spki(even)))


def test_another_kind_of_key_is_refused() -> None:
    assert refused(statement(spki(keyring(ALICE).signing_key.public_key())))
    assert refused(statement(spki(ed25519.Ed25519PrivateKey.generate().public_key())))


def test_what_is_no_key_is_refused() -> None:
    for der in (b"", b"\x30\x00", bytes(300), b"\xff" * 300):
        assert refused(statement(der))


def test_another_form_of_the_same_key_is_refused() -> None:
    der = spki(public(2048))
    pkcs1 = public(2048).public_bytes(Encoding.DER, PublicFormat.PKCS1)
    pem = public(2048).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    # The same key with its outer length spelt in three bytes where two do.
    length = int.from_bytes(der[2:4], "big")
    longer = b"\x30\x83" + length.to_bytes(3, "big") + der[4:]
    # ... and with the parameters of rsaEncryption, NULL, left out (RFC 3279 section 2.3.1 demands them).
    algorithm = bytes.fromhex("300d06092a864886f70d0101010500")
    body = der[4:].replace(algorithm, bytes.fromhex("300b06092a864886f70d010101"), 1)
    no_null = b"\x30\x82" + len(body).to_bytes(2, "big") + body

    assert algorithm in der
    for other in (pkcs1, pem, longer, no_null, der + b"\0", der[:-1]):
        assert refused(statement(other))


@pytest.mark.parametrize("node", [HOSPITAL.uri, patient("bob").uri, ALICE.uri + " ", ALICE.uri.upper(), "", "alice"])
def test_another_nodes_statement_is_refused(node: str) -> None:
    assert refused(statement(node=node))


def test_a_statement_that_another_node_signed_is_refused() -> None:
    bobs = publish(ALICE, keyring(patient("bob")).signing_key, rsa.generate_private_key(65537, 2048), NOW).statement

    assert refused(bobs)
    assert refused(keyring(HOSPITAL).encryption.statement)


@pytest.mark.parametrize("key_id", [b"", bytes(32), bytes(31), sha256(b"another key")])
def test_a_key_id_that_is_not_the_keys_digest_is_refused(key_id: bytes) -> None:
    assert refused(statement(key_id=key_id))


def test_a_statement_holds_from_its_first_to_its_last_second() -> None:
    signed = statement(not_before=START, not_after=START + 60)

    assert [refused(signed, START + second) for second in (-1, 0, 60, 61)] == [True, False, False, True]


def test_an_impossible_time_is_refused() -> None:
    assert refused(statement(not_before=START, not_after=START), START)
    assert refused(statement(not_before=START + 60, not_after=START), START + 30)
    assert refused(statement(not_before=-1, not_after=60), 30)
    assert refused(statement(), float("nan"))


def test_an_over_long_life_is_refused() -> None:
    assert MAX_LIFETIME == 31 * 24 * 3600
    assert not refused(statement(not_before=START, not_after=START + MAX_LIFETIME))
    assert refused(statement(not_before=START, not_after=START + MAX_LIFETIME + 1))
    assert refused(statement(not_before=START, not_after=2**63))


def test_any_change_of_the_signed_bytes_is_refused() -> None:
    good = statement()
    for at in range(0, len(good.body), 7):
        body = bytearray(good.body)
        body[at] ^= 1
        assert refused(Signed(bytes(body), good.signature))
    assert refused(Signed(good.body, bytes(64)))
    assert refused(Signed(good.body, b""))


def test_a_signature_for_another_purpose_is_refused() -> None:
    body = statement().body
    assert refused(Signed(body, sign_digest(keyring(ALICE).signing_key, tagged_digest("consent", body))))


def test_signed_content_of_another_shape_is_refused() -> None:
    assert refused(sign(keyring(ALICE).signing_key, PURPOSE, Ready(bytes(32))))
    body = encode(Ready(bytes(32))) + b"\0"
    assert refused(Signed(body, sign_digest(keyring(ALICE).signing_key, tagged_digest(PURPOSE, body))))


def test_a_remembered_statement_is_still_checked_against_time_and_holder() -> None:
    signed = statement(not_after=START + 60)

    assert not refused(signed)
    assert refused(signed, START + 61)
    with pytest.raises(MessageRefused):
        check_statement(signed, credential(HOSPITAL), NOW)
    other_certificate = replace(credential(ALICE), digest=bytes(32), public_key=keyring(HOSPITAL).signing_key.public_key())
    with pytest.raises(MessageRefused):
        check_statement(signed, other_certificate, NOW)


def test_publishing_makes_a_statement_that_is_valid_now_and_for_slow_clocks() -> None:
    made = publish(ALICE, keyring(ALICE).signing_key, rsa.generate_private_key(65537, 2048), NOW, lifetime=60)

    assert made.not_after == START + 60
    assert [refused(made.statement, NOW + second) for second in (-CLOCK_SKEW - 1, -CLOCK_SKEW, 60, 61)] == [
        True,
        False,
        False,
        True,
    ]
    assert check_statement(made.statement, credential(ALICE), NOW).key_id == made.key_id


def test_round_keys_agree_as_rfc_7748_says() -> None:
    # RFC 7748 section 6.1: both private keys, both public keys and the shared secret.
    alice = RoundKey(lambda _: bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"))
    bob = RoundKey(lambda _: bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"

    assert alice.public.hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert bob.public.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    assert alice.agree(bob.public).hex() == bob.agree(alice.public).hex() == shared


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"])
def test_a_point_of_small_order_agrees_with_nobody(point: bytes) -> None:
    with pytest.raises(ValueError, match="shared key"):
        RoundKey(lambda size: bytes(range(size))).agree(point)


def test_ever_new_round_keys_of_peers_are_not_all_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    # A Consent's round key is its sender's choice, and a Consent that is refused may be followed by another.
    monkeypatch.setattr("mpc.keys._AGREED", 3)
    key = RoundKey(lambda size: b"k" * size)
    peers = [RoundKey(bytes([number]).__mul__) for number in range(1, 8)]
    for peer in peers:
        assert key.agree(peer.public) == peer.agree(key.public)
        assert len(key._agreed) <= 3


def test_a_large_statement_is_refused_before_anything_of_it_is_remembered() -> None:
    remembered = _read_statement.cache_info().misses
    good = statement()
    assert refused(Signed(good.body + bytes(2048), good.signature))
    assert refused(Signed(good.body, good.signature + b"x"))
    assert _read_statement.cache_info().misses == remembered


def test_keys_do_not_print() -> None:
    key = RoundKey(lambda size: b"k" * size)
    ring = keyring(ALICE)
    numbers = ring.encryption.private_key.private_numbers()
    shown = repr(key) + repr(ring) + repr(ring.encryption)

    assert repr(key) == "<round key>"
    assert not any(str(number) in shown for number in (numbers.d, numbers.p, numbers.q))
    assert "PrivateKey" not in shown
