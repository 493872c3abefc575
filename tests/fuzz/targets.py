"""What every parser promises of whatever it is given: a value, or the one error that it declares. Bytes go in.

A target returns where the promise held and raises where it did not; the fuzzer and the tests of the corpus call the
same ones. A parser of input that an outsider can choose has a target here.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from struct import calcsize, iter_unpack
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple, get_args

import jwt
import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm
from msgspec.structs import replace

from trustwatch.api.access.call_evaluation import CallQuestion, read_call_question
from trustwatch.api.events.admission import RefusedRecords
from trustwatch.api.events.service import parse_dead_letter
from trustwatch.api.http.auth.bearer_tokens import presented_token
from trustwatch.api.http.auth.client_certificates import certificate_names, read_certificate
from trustwatch.api.http.auth.proof_of_possession import ProofRefused, ProofVerifier, Report, ShownProof
from trustwatch.api.http.auth.set_encryption import CONTENT_ALGORITHM, parse_encryption_keys
from trustwatch.api.http.auth.set_verification import SetErrorCode, SetRefused, verify_security_event
from trustwatch.api.http.auth.token_verification import (
    AuthenticationFailed,
    InvalidToken,
    TokenBinding,
    parse_keys,
    unverified_issuer,
    verify_token,
)
from trustwatch.api.http.ledger import Party
from trustwatch.api.http.problems import ProblemError
from trustwatch.api.settings.access_settings import IssuerSettings, ProofSettings
from trustwatch.api.shared_signals.service import (
    PollRequest,
    StatusRequest,
    StreamChange,
    StreamRequest,
    SubjectRequest,
    VerificationRequest,
    read_body,
)
from trustwatch.ingest.argument_columns import read_arguments, read_untrusted_result
from trustwatch.ingest.errors import ConfigError, MalformedEvent, ModelError
from trustwatch.ingest.events import NativeEvent, decode_event
from trustwatch.ingest.formats.bodies import (
    CLOUDEVENT_MEDIA_TYPE,
    EVENT_MEDIA_TYPES,
    BodyTooLarge,
    UnsupportedBody,
    decompress_body,
    parse_body,
    parse_foreign_body,
)
from trustwatch.ingest.formats.cloudevents import decode_http_binary, parse_cloudevent
from trustwatch.ingest.formats.format_presets import AUDIT_LOG_FORMATS
from trustwatch.ingest.formats.format_registry import FORMATS, create_parser
from trustwatch.ingest.formats.history_decoding import decode_history_event
from trustwatch.ingest.formats.raw_records import FormatParser, RawRecord
from trustwatch.ingest.formats.received_signals import build_signal_event, find_signal_rule, read_signal_subjects
from trustwatch.ingest.history.conversion import FormatChoice, HistoryConverter
from trustwatch.ingest.history.time_order import in_time_order
from trustwatch.ingest.log.segment_import import read_chunk
from trustwatch.ingest.source import Record
from trustwatch.models.model_directory import (
    ModelManifest,
    TrainingWindow,
    decode_manifest,
    encode_manifest,
    load_model,
    manifest_digest,
)
from trustwatch.models.model_persistence import save_trained_model
from trustwatch.models.model_training import train_model
from trustwatch.scoring.delivery.shared_signals.announced_decision import AnnouncedPin, pin_as_decision
from trustwatch.scoring.delivery.shared_signals.subject_identifiers import InvalidSubject, check_subject, is_wanted
from trustwatch.scoring.pipeline.risk_topic_reader import RiskTopicReader, epoch_of_record
from trustwatch.scoring.pipeline.topic_publisher import ERASED_UP_TO_HEADER
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.security_events import StreamSubject
from trustwatch.scoring.store.database import BadCursor, from_cursor
from trustwatch_client.argument_origins import (
    HASH_DIGITS,
    PARTS_OF_EXACT_HASH,
    ArgumentOrigins,
    OriginLimits,
    exact_hash,
    keyed_fingerprint,
)
from trustwatch_client.events import MAX_ARGUMENTS

from ..support import model_history
from ..support.old_logs import encode_chunk
from ..support.processes.hostile_models import outcome_of, write_array
from ..support.processes.hostile_models import saved as as_file
from ..support.scan_records import ScannerAndReference

Target = Callable[[bytes], None]
ISSUER: Final = "https://as.example"
NOW: Final = 1_764_000_000.0
FORMAT_NAMES: Final = [*sorted(set(FORMATS) - {"mapping", *AUDIT_LOG_FORMATS}), *AUDIT_LOG_FORMATS]
REFUSALS: Final = (MalformedEvent, UnsupportedBody, BodyTooLarge)
MAX_MESSAGE: Final = 2_000
ARRAY_CHANGE: Final = "<HBI8s"
"""Number of an array, what is done to it, where, and eight bytes."""
CHANGE_BYTES: Final = calcsize(ARRAY_CHANGE)
MAX_CHANGES: Final = 6
MAX_ROWS: Final = 5_000
_EVENT_ENCODER = msgspec.json.Encoder()


def native_event(data: bytes) -> None:
    """An event, which says the same when it is written and read again, or MalformedEvent with a reason."""
    try:
        event = decode_event(data)
    except MalformedEvent as error:
        assert error.reason
        assert error.path.startswith("$")
        return
    _check_event(event)


def _check_event(event: NativeEvent) -> None:
    """It can be written for everybody: UTF-8 without lone surrogates, which JSON parsers elsewhere refuse."""
    json.loads(_EVENT_ENCODER.encode(event).decode())


def history_event(data: bytes) -> None:
    """As a native event; an unknown outcome is mended."""
    try:
        decode_history_event(data)
    except MalformedEvent as error:
        assert error.reason


def scanner(data: bytes) -> None:
    """Compiled scanner and reference decoder agree on every line: columns, refusals, reasons."""
    _scanner_pair().check(data.split(b"\n")[:20])


@cache
def _scanner_pair() -> ScannerAndReference:
    return ScannerAndReference()


def foreign_format(data: bytes) -> None:
    """Each format (the first byte says which) takes a record, skips it or refuses it with a reason."""
    name = FORMAT_NAMES[data[0] % len(FORMAT_NAMES)] if data else "native"
    _check_records(_parser(name), data[1:], {})


def log_file(data: bytes) -> None:
    """A log that somebody exported: its events can be read, or one error says why not; Parquet is Arrow's to read."""
    if data.startswith(b"PAR1"):
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        path.write_bytes(data)
        converter = HistoryConverter(FormatChoice(), lambda text: None)
        try:
            for event in in_time_order(converter.convert(converter.find(path))):
                decode_event(event)
        except ConfigError as error:
            assert str(path) in str(error)


def event_arguments(data: bytes) -> None:
    """Whatever stands among the attributes of an event, arguments are read from it or not, and are bounded."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = data.decode("utf-8", "replace")
    event = msgspec.structs.replace(_plain_event(), attributes={"arguments": value, "untrusted_result": value})
    assert len(read_arguments(event) or ()) <= MAX_ARGUMENTS
    assert read_untrusted_result(event) in (True, False, None)


@cache
def _plain_event() -> NativeEvent:
    return decode_event(
        b'{"time":"2026-03-02T08:00:14Z","agent":{"id":"a"},"type":"other","action":"x","outcome":"success"}'
    )


def conversation(data: bytes) -> None:
    """A result and, behind a zero byte, the arguments of the next call: bounded, and nothing of them is told."""
    result, _, arguments = data.partition(b"\0")
    memory = ArgumentOrigins(lambda: lambda _: "00ff00ff00ff", OriginLimits(characters=4_000))
    memory.finish_call(memory.start_call("read", {}), result, untrusted=True)
    call = memory.start_call("send", {"text": arguments.decode("utf-8", "replace"), "parts": result.decode("latin-1")})
    assert memory.characters <= 4_000
    assert {argument.name.rstrip("~") for argument in call.arguments or ()} <= {"text", "parts"}
    assert {argument.hash for argument in call.arguments or ()} <= {"00ff00ff00ff"}


def otlp(data: bytes) -> None:
    """Exports of OpenTelemetry."""
    _check_records(_parser("otlp"), data, {})


def cloudevents(data: bytes) -> None:
    """Structured, and binary: headers are lines before an empty one, the body is what follows."""
    _check_records(parse_cloudevent, data, {})
    head, _, body = data.partition(b"\n\n")
    headers = dict(_header_lines(head.decode("latin-1")))
    _check_records(parse_cloudevent, body, headers)
    try:
        decode_http_binary(headers, body)
    except MalformedEvent as error:
        assert error.reason


def _header_lines(head: str) -> Iterator[tuple[str, str]]:
    for line in head.split("\n")[:50]:
        name, _, value = line.partition(":")
        yield name.strip().lower(), value.strip()


@cache
def _parser(name: str) -> FormatParser:
    return create_parser(name)


def _check_records(parser: FormatParser, value: bytes, headers: Mapping[str, str]) -> None:
    try:
        records, skipped = parser(value, headers)
    except MalformedEvent as error:
        assert error.reason
        return
    assert skipped >= 0
    refused = RefusedRecords(0, Party("fuzz", "fuzz"), str)
    kept = sum(_check_record(record, refused, index) for index, record in enumerate(records[:50]))
    kept += sum(len(letter.record.payload) for letter in refused.letters())
    held = len(value) + sum(map(len, headers.values()))
    assert kept <= 4 * held + 1024 * max(len(records), 1), "the log holds many times what was sent"


def _check_record(record: RawRecord, refused: RefusedRecords, index: int) -> int:
    """Bytes of the event; a refused record has none."""
    try:
        native = record.raw if record.to_native is None else record.to_native()
    except MalformedEvent as error:
        assert error.reason
        refused.add(record, error, index)
        return 0
    try:
        decode_event(native)
    except MalformedEvent:
        assert record.to_native is None, "a format made an event that is none"
    return len(native)


def http_body(data: bytes) -> None:
    """Bodies of the API: media type and coding by the first two bytes; a dead letter is read again."""
    if len(data) < 2:
        return
    kind, coding, body = EVENT_MEDIA_TYPES[data[0] % len(EVENT_MEDIA_TYPES)], ("", "gzip")[data[1] % 2], data[2:]
    try:
        plain = decompress_body(body, coding)
        records = parse_body(kind, {}, plain)
    except REFUSALS:
        return
    for record in records[:20]:
        _check_outcome(lambda again=record: parse_dead_letter(again.raw))
    if kind != CLOUDEVENT_MEDIA_TYPE:
        _check_outcome(lambda: parse_foreign_body(kind, plain, _parser("envoy")))


def _check_outcome(parse: Callable[[], object]) -> None:
    try:
        parse()
    except REFUSALS:
        return


class _Keys(NamedTuple):
    private: Ed25519PrivateKey
    document: bytes


@cache
def _keys() -> _Keys:
    private = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public = json.loads(OKPAlgorithm.to_jwk(private.public_key()))
    return _Keys(private, json.dumps({"keys": [public | {"kid": "k1", "alg": "EdDSA", "use": "sig"}]}).encode())


def call_question(data: bytes) -> None:
    """A question about a call or 422 with a path; another spelling of one is bound to the same digest."""
    try:
        question = read_call_question(data)
    except ProblemError as error:
        assert error.problem.status == 422
        assert error.problem.members["errors"][0]["path"].startswith("$")
        return
    written = _EVENT_ENCODER.encode(question)
    json.loads(written.decode())
    again = msgspec.json.decode(written, type=CallQuestion)
    assert again.bound_members() == question.bound_members()
    changed = msgspec.structs.replace(question, arguments_hash="0" * 64, action=question.action)
    assert (changed.bound_members() == question.bound_members()) is (question.arguments_hash == "0" * 64)


def exact_arguments(data: bytes) -> None:
    """Arguments that JSON tells have one hash, and other ones another; nothing that a client is given breaks it."""
    hashed = keyed_fingerprint(b"k" * 32)
    try:
        given = json.loads(data)
    except (ValueError, RecursionError):
        given = data.decode("utf-8", "surrogateescape")
    first = exact_hash(given, hashed)
    assert len(first) == PARTS_OF_EXACT_HASH * HASH_DIGITS
    assert exact_hash(given, hashed) == first
    assert exact_hash([given], hashed) != first


def token(data: bytes) -> None:
    """A token as it stands, and its claims under a good signature: claims, or AuthenticationFailed."""
    issuer = IssuerSettings(issuer=ISSUER, audiences=("trustwatch",), jwks_uri=f"{ISSUER}/jwks")
    keys = parse_keys(_keys().document)
    forms = [data.decode("latin-1")]
    if data:
        parts = [
            base64.urlsafe_b64encode(part).rstrip(b"=") for part in (b'{"alg":"EdDSA","typ":"JWT","kid":"k1"}', data)
        ]
        signature = _keys().private.sign(b".".join(parts))
        forms.append(b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode())
    for form in forms:
        try:
            presented_token(b"Bearer " + form.encode("latin-1"))
            assert isinstance(unverified_issuer(form), str)
        except AuthenticationFailed:
            pass
        try:
            claims = verify_token(form, issuer, keys, NOW)
        except InvalidToken as error:
            assert error.reason
        else:
            assert claims.issuer == ISSUER
            assert form != forms[0], "an unsigned token is believed"


def received_set(data: bytes) -> None:
    """Claims of a SET under a good signature, and the SET as it stands: an audit event that the intake takes, a signal
    that means nothing here, or an error of RFC 8935."""
    issuer = IssuerSettings(issuer=ISSUER, audiences=("trustwatch",), jwks_uri=f"{ISSUER}/jwks")
    keys = parse_keys(_keys().document)
    parts = [
        base64.urlsafe_b64encode(part).rstrip(b"=")
        for part in (b'{"alg":"EdDSA","typ":"secevent+jwt","kid":"k1"}', data)
    ]
    signature = base64.urlsafe_b64encode(_keys().private.sign(b".".join(parts))).rstrip(b"=")
    for form in (data.decode("latin-1"), b".".join([*parts, signature]).decode()):
        try:
            claims = verify_security_event(form, issuer, keys, NOW)
        except SetRefused as refused:
            assert refused.err in get_args(SetErrorCode)
            continue
        ((event_type, members),) = claims["events"].items()
        rule, subjects = find_signal_rule(event_type, members), read_signal_subjects(claims["sub_id"])
        if rule is None or rule.treatment is None or not subjects:
            continue
        subject = subjects[0]
        event = build_signal_event(claims, rule, subject, rule.treatment, "urn:s", NOW)
        with suppress(UnicodeEncodeError):
            assert decode_event(msgspec.json.encode(event)).type.startswith("signal.")


def dpop_proof(data: bytes) -> None:
    """A proof as it stands, and a header and claims under the signature of its key: refused with a reason, or right."""
    verifier = ProofVerifier(ProofSettings(), lambda: NOW, b"k" * 32)
    header, _, claims = data.partition(b"\n")
    parts = [base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, claims)]
    signature = base64.urlsafe_b64encode(_keys().private.sign(b".".join(parts))).rstrip(b"=")
    for form in (data, b".".join([*parts, signature])):
        shown = ShownProof(True, (form,), "GET", "https://api.example/")
        try:
            verifier.check(TokenBinding("x"), b"t", shown, ("as", "bot"))
        except ProofRefused as refused:
            assert refused.report in get_args(Report)
        else:
            raise AssertionError("a proof of another key passes")


def client_certificate(data: bytes) -> None:
    """A thumbprint of 43 characters, or none."""
    shown = read_certificate(data)
    assert len(shown.thumbprint) in (0, 43)
    assert shown.certificate is None or certificate_names(shown.certificate) is not None


def key_set(data: bytes) -> None:
    """Keys of an issuer: those that can verify, or ValueError; no private or symmetric one is among them."""
    try:
        keys = parse_keys(data)
    except ValueError:
        return
    for alg in ("ES256", "RS256", "PS256", "EdDSA"):
        found = keys.find(None, alg)
        assert found is None or isinstance(found, jwt.PyJWK)
    assert all(key.header["enc"] == CONTENT_ALGORITHM for key in parse_encryption_keys(data).keys)


def model_manifest(data: bytes) -> None:
    """A manifest, or ModelError that says what to do."""
    try:
        decode_manifest(data, "manifest.json")
    except ModelError as error:
        assert str(error)


def model_file(data: bytes) -> None:
    """A model with one array: a line with what the manifest claims of it, then the file. An array, or ModelError; no
    header and no claim takes more memory than the file has bytes."""
    claim, _, file = data.partition(b"\n")
    content = json.loads(_manifest_of_one_array())
    content["files"] = {"detector/x.npy": {"sha256": hashlib.sha256(file).hexdigest(), **_members(claim)}}
    content["digest"] = manifest_digest(content)
    with TemporaryDirectory() as folder:
        model = Path(folder)
        (model / "detector").mkdir()
        (model / "detector" / "x.npy").write_bytes(file)
        (model / "manifest.json").write_text(json.dumps(content))
        try:
            loaded = load_model(model, feature_names=(), feature_table_hash="")
        except ModelError as error:
            assert len(str(error)) < MAX_MESSAGE
            return
    (array,) = loaded.detector_state.values()
    assert array.dtype.kind in "biuf"
    assert array.nbytes < len(file)


@cache
def _manifest_of_one_array() -> bytes:
    return encode_manifest(ModelManifest("1", (), "", TrainingWindow(0, 0, 0, 0, 0), {}, "00", 0), {})


def _members(text: bytes) -> dict[str, object]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def model_arrays(data: bytes) -> None:
    """A small trained model, changed as the input says and signed anew: ModelError, or it scores events."""
    with TemporaryDirectory() as folder:
        model = Path(folder)
        for name, raw in _trained_model_files().items():
            (model / name).parent.mkdir(parents=True, exist_ok=True)
            (model / name).write_bytes(raw)
        for change in list(iter_unpack(ARRAY_CHANGE, data[: len(data) // CHANGE_BYTES * CHANGE_BYTES]))[:MAX_CHANGES]:
            change_array(model, *change)
        outcome = outcome_of(model)

    assert outcome in ("refused", "scored"), outcome


def change_array(model: Path, number: int, kind: int, place: int, value: bytes) -> None:
    """Change one array: the bytes at a place, all of them, its size or its type."""
    names = sorted(name for name in _trained_model_files() if name.endswith(".npy"))
    name = names[number % len(names)]
    array = np.load(model / name)
    flat = array.reshape(-1).copy().view(np.uint8)
    if kind % 4 < 2 and len(flat):
        at = place % len(flat) // array.itemsize * array.itemsize
        end = at + array.itemsize if kind % 4 == 0 else len(flat)
        flat[at:end] = np.resize(np.frombuffer(value, np.uint8), end - at)
        array = flat.view(array.dtype).reshape(array.shape)
    elif kind % 4 == 2:
        array = np.resize(array, (place % MAX_ROWS, *array.shape[1:]))
    elif kind % 4 == 3:
        array = flat.view(f"<{'fiu'[place % 3]}{array.itemsize}") if array.itemsize > 1 else flat
    write_array(model, name, as_file(array), array)


@cache
def _trained_model_files() -> dict[str, bytes]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        trained = train_model(model_history.history(500), model_history.SALT, "p-1", model_history.SETTINGS)
        save_trained_model(path, trained, model_history.SETTINGS, 50, 1_764_000_000_000)
        return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def log_frames(data: bytes) -> None:
    """Segments of logs of 0.1 and 0.2: damage ends the walk, and what is intact is what was written."""
    position = 0
    while (chunk := read_chunk(data, position)) is not None:
        assert chunk[1]
        assert chunk[2] > position
        position = chunk[2]
    written = [Record(1, 7, 9, part) for part in data.split(b"\n")[:5]]
    frame = encode_chunk(3, written)
    assert read_chunk(frame, 0) == (3, written, len(frame))
    assert read_chunk(frame[:-1], 0) is None


def risk_topic(data: bytes) -> None:
    """Records of the topics that replicas read: a key and a value, with a line between; nothing ends who reads them."""
    key, _, value = data.partition(b"\n")
    reader = RiskTopicReader(4)
    for given in (value, None):
        reader.read_risk(key, given, [(ERASED_UP_TO_HEADER, value)], 0)
        reader.read_risk(None, given)
    reader.read_decision(value)
    assert epoch_of_record(value) is not None
    for update in reader.drain_updates(with_freshness=True):
        assert msgspec.msgpack.encode(update)


def stream_request(data: bytes) -> None:
    """What receivers of shared signals say, and whether an agent is meant by it; or a problem that is answered."""
    pin = AnnouncedPin("d", "acme", "https://as", "bot", RiskLevel.HIGH, holds=True, changed_ms=1)
    decision = replace(pin_as_decision(pin, RiskLevel.LOW, revokes=True, enforced=True), principal="ann")
    for kind in (StreamRequest, StreamChange, StatusRequest, SubjectRequest, VerificationRequest, PollRequest):
        try:
            asked = read_body(data, kind)
            if isinstance(asked, SubjectRequest):
                subject = check_subject(asked.subject)
                assert isinstance(is_wanted(decision, [StreamSubject(subject, False, 1)]), bool)
        except InvalidSubject:
            continue
        except ProblemError as error:
            assert error.problem.status == 400


def page_cursor(data: bytes) -> None:
    """The place in a list, or BadCursor."""
    text = data.decode("latin-1")
    for shape in (tuple[int, str], tuple[int, str, int], tuple[str, str, str], tuple[int, float, str, str, str]):
        try:
            assert isinstance(from_cursor(text, shape), tuple)
        except BadCursor:
            continue


TARGETS: Final[Mapping[str, Target]] = {
    target.__name__: target
    for target in (
        native_event,
        history_event,
        scanner,
        foreign_format,
        log_file,
        event_arguments,
        conversation,
        otlp,
        cloudevents,
        http_body,
        call_question,
        exact_arguments,
        token,
        received_set,
        dpop_proof,
        client_certificate,
        key_set,
        model_manifest,
        model_file,
        model_arrays,
        log_frames,
        risk_topic,
        stream_request,
        page_cursor,
    )
}
