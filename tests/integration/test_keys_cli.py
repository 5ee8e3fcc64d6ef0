"""keygen and decrypt as commands: real processes, pipes and files."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import envelope, receipt
from pipeline.envelope import SEGMENT
from pipeline.messages import EnvelopeFormat
from pipeline.receipt import Encryption, Subject
from tests.peers.cache import tool

MIB = 1024 * 1024
PLAINTEXT = os.urandom(2 * MIB + 17)

Result = subprocess.CompletedProcess[bytes]


def dropoffd(*arguments: object, input: bytes = b"") -> Result:  # noqa: A002 - as subprocess.run calls it
    command = [sys.executable, "-m", "daemon", *map(str, arguments)]
    return subprocess.run(command, input=input, capture_output=True, check=False, timeout=60)


def limited(*arguments: object, memory: int, source: Path) -> Result:
    """With no more than ``memory`` bytes of address space."""
    program = (
        f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))\n"
        "import sys; from daemon.cli import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", program, *map(str, arguments)]
    with source.open("rb") as stdin:
        return subprocess.run(command, stdin=stdin, capture_output=True, check=False, timeout=100)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    assert dropoffd("keygen", "crypt4gh", path).returncode == 0
    return path


def seal(public: Path, plaintext: bytes, name: EnvelopeFormat = "crypt4gh") -> bytes:
    form = envelope.by_format(name)
    session_key, header, _ = form.make([public.read_text()])
    out = bytearray(form.sealed_size(0, len(plaintext)))
    form.sealer(session_key, len(plaintext)).seal_into(0, memoryview(plaintext), memoryview(out))
    return header + bytes(out)


@pytest.fixture
def sealed(key: Path, tmp_path: Path) -> Path:
    path = tmp_path / "data.c4gh"
    path.write_bytes(seal(key.with_name("key.pub"), PLAINTEXT))
    return path


@pytest.fixture
def record(tmp_path: Path) -> Path:
    subject = Subject(
        upload="u1",
        tus_id="t1",
        study="11111111-2222-4333-8444-555555555555",
        filename="data",
        size=len(PLAINTEXT),
        digest=f"sha256:{hashlib.sha256(PLAINTEXT).hexdigest()}",
        received_at=1.0,
        stored_at=2.0,
    )
    encryption = Encryption(format="crypt4gh", recipients=(), size=0)
    return receipt.write(tmp_path, receipt.build(subject, encryption, [], "dropoffd"))


def test_keygen_writes_a_pair_and_says_where(tmp_path: Path) -> None:
    result = dropoffd("keygen", "crypt4gh", tmp_path / "mine")
    assert result.returncode == 0
    assert result.stdout.decode().split() == [str(tmp_path / "mine"), str(tmp_path / "mine.pub")]
    assert stat.S_IMODE((tmp_path / "mine").stat().st_mode) == 0o600


def test_scripts_get_the_paths_as_json(tmp_path: Path) -> None:
    result = dropoffd("keygen", "age", tmp_path / "mine", "--json")
    assert json.loads(result.stdout) == {
        "format": "age",
        "secret": str(tmp_path / "mine"),
        "public": str(tmp_path / "mine.pub"),
    }


@pytest.mark.parametrize("there", ["key", "key.pub"])
def test_keygen_never_overwrites(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("precious")
    result = dropoffd("keygen", "crypt4gh", tmp_path / "key")
    assert result.returncode == 1
    assert f"{there}: File exists" in result.stderr.decode()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("kind", ["rsa", ""])
def test_keygen_of_an_unknown_kind_is_wrong_usage(tmp_path: Path, kind: str) -> None:
    assert dropoffd("keygen", kind, tmp_path / "key").returncode == 2


def test_a_pair_of_the_reference_tool_decrypts(tmp_path: Path) -> None:
    key, public = tmp_path / "key", tmp_path / "key.pub"
    command = [
        tool("crypt4gh-keygen", "making its keys"),
        "--nocrypt",
        "--sk",
        str(key),
        "--pk",
        str(public),
    ]
    subprocess.run(command, check=True, capture_output=True)
    result = dropoffd("decrypt", "-", "--key", key, input=seal(public, PLAINTEXT))
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout == PLAINTEXT


def test_the_reference_tool_decrypts_with_our_pair(key: Path, sealed: Path) -> None:
    with sealed.open("rb") as stdin:
        result = subprocess.run(
            [tool("crypt4gh", "reading ours"), "decrypt", "--sk", key],
            stdin=stdin,
            capture_output=True,
            check=True,
        )
    assert result.stdout == PLAINTEXT


def test_from_file_to_file(key: Path, sealed: Path, record: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = dropoffd("decrypt", sealed, "--key", key, "--receipt", record, "-o", out)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert out.read_bytes() == PLAINTEXT
    assert not stat.S_IMODE(out.stat().st_mode) & 0o077


def test_a_protected_key_needs_its_passphrase(tmp_path: Path) -> None:
    key, words = tmp_path / "key", tmp_path / "words"
    words.write_text("correct horse\n")
    words.chmod(0o600)
    assert dropoffd("keygen", "crypt4gh", key, "--passphrase-file", words).returncode == 0
    data = seal(key.with_name("key.pub"), b"hello")
    result = dropoffd("decrypt", "-", "--key", key, "--passphrase-file", words, input=data)
    assert result.stdout == b"hello"

    without = dropoffd("decrypt", "-", "--key", key, input=data)
    assert without.returncode == 1
    assert b"give --passphrase-file" in without.stderr

    words.write_text("wrong\n")
    wrong = dropoffd("decrypt", "-", "--key", key, "--passphrase-file", words, input=data)
    assert wrong.returncode == 1
    assert b"envelope_invalid: wrong passphrase" in wrong.stderr


def test_an_empty_passphrase_file_protects_nothing_and_is_refused(tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.write_text("\n")
    result = dropoffd("keygen", "crypt4gh", tmp_path / "key", "--passphrase-file", words)
    assert result.returncode == 1
    assert not (tmp_path / "key").exists()


def test_a_key_that_others_can_use_is_warned_of(key: Path, sealed: Path) -> None:
    key.chmod(0o644)
    result = dropoffd("decrypt", sealed, "--key", key)
    assert result.returncode == 0
    assert b"warning" in result.stderr
    assert b"mode 0644" in result.stderr


def cut(data: bytes) -> bytes:
    return data[: 124 + 3 * (SEGMENT + 28)]


def swapped(data: bytes) -> bytes:
    first, second = 124 + SEGMENT + 28, 124 + 2 * (SEGMENT + 28)
    return data[:124] + data[first:second] + data[124:first] + data[second:]


@pytest.mark.parametrize("damage", [cut, swapped])
def test_with_a_receipt_nothing_wrong_gets_the_final_name(
    damage: Callable[[bytes], bytes], key: Path, sealed: Path, record: Path, tmp_path: Path
) -> None:
    sealed.write_bytes(damage(sealed.read_bytes()))
    out = tmp_path / "out"
    out.write_text("from before")
    before = set(tmp_path.iterdir())
    result = dropoffd("decrypt", sealed, "--key", key, "--receipt", record, "-o", out)
    assert result.returncode == 1
    assert b"verification_failed" in result.stderr
    assert out.read_text() == "from before"
    assert set(tmp_path.iterdir()) == before


def test_without_one_a_cut_inside_a_segment_is_still_found(
    key: Path, sealed: Path, tmp_path: Path
) -> None:
    sealed.write_bytes(sealed.read_bytes()[:-5])
    before = set(tmp_path.iterdir())
    result = dropoffd("decrypt", sealed, "--key", key, "-o", tmp_path / "out")
    assert result.returncode == 1
    assert b"envelope_invalid: segment" in result.stderr
    assert set(tmp_path.iterdir()) == before


def test_on_standard_output_the_exit_code_tells(key: Path, sealed: Path, record: Path) -> None:
    data = cut(sealed.read_bytes())
    result = dropoffd("decrypt", "-", "--key", key, "--receipt", record, input=data)
    assert result.returncode == 1
    assert b"verification_failed" in result.stderr


def test_another_s_key_is_told(sealed: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    dropoffd("keygen", "crypt4gh", other)
    result = dropoffd("decrypt", sealed, "--key", other)
    assert result.returncode == 1
    assert b"envelope_invalid: this file isn't sealed for the given key" in result.stderr


def test_a_file_that_is_not_encrypted_is_told(key: Path) -> None:
    result = dropoffd("decrypt", "-", "--key", key, input=b"BAM\1")
    assert result.returncode == 1
    assert b"no Crypt4GH and no age file" in result.stderr


@pytest.mark.parametrize("missing", ["file", "key", "receipt", "directory"])
def test_what_is_missing_is_named(
    missing: str, key: Path, sealed: Path, record: Path, tmp_path: Path
) -> None:
    gone = tmp_path / "gone" / "x"
    result = dropoffd(
        *("decrypt", gone if missing == "file" else sealed),
        *("--key", gone if missing == "key" else key),
        *("--receipt", gone if missing == "receipt" else record),
        *("-o", gone if missing == "directory" else tmp_path / "out"),
    )
    assert result.returncode == 1
    assert str(gone.parent) in result.stderr.decode()
    assert b"Traceback" not in result.stderr


def test_a_receipt_that_is_none_is_told_before_anything_is_written(
    key: Path, sealed: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps({"version": 1}))
    result = dropoffd("decrypt", sealed, "--key", key, "--receipt", bad)
    assert (result.returncode, result.stdout) == (1, b"")
    assert b"receipt_invalid" in result.stderr


def test_output_goes_through_a_link_to_its_target(key: Path, sealed: Path, tmp_path: Path) -> None:
    out, link = tmp_path / "out", tmp_path / "link"
    link.symlink_to(out)
    assert dropoffd("decrypt", sealed, "--key", key, "-o", link).returncode == 0
    assert link.is_symlink()
    assert out.read_bytes() == PLAINTEXT


def test_a_pipe_is_written_to_and_not_replaced(key: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    data = seal(key.with_name("key.pub"), b"hello")
    result = dropoffd("decrypt", "-", "--key", key, "-o", pipe, input=data)
    received = os.read(reader, 100)
    os.close(reader)
    assert (result.returncode, received) == (0, b"hello")
    assert pipe.is_fifo()


def test_a_file_can_be_decrypted_onto_itself(key: Path, sealed: Path) -> None:
    assert dropoffd("decrypt", sealed, "--key", key, "-o", sealed).returncode == 0
    assert sealed.read_bytes() == PLAINTEXT


def test_a_full_disk_is_no_traceback(key: Path, sealed: Path) -> None:
    result = dropoffd("decrypt", sealed, "--key", key, "-o", "/dev/full")
    assert result.returncode == 1
    assert b"No space left on device" in result.stderr
    assert b"Traceback" not in result.stderr


def test_a_closed_pipe_is_no_traceback(key: Path, sealed: Path) -> None:
    command = [sys.executable, "-m", "daemon", "decrypt", str(sealed), "--key", str(key)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 1


def test_decrypting_needs_no_memory_for_the_file(key: Path, tmp_path: Path) -> None:
    size = 512 * MIB
    form = envelope.by_format("crypt4gh")
    session_key, header, _ = form.make([key.with_name("key.pub").read_text()])
    sealer = form.sealer(session_key, size)
    out = memoryview(bytearray(form.sealed_size(0, MIB)))
    path = tmp_path / "large.c4gh"
    with path.open("wb") as file:
        file.write(header)
        for number in range(size // MIB):
            file.write(out[: sealer.seal_into(number * 16, memoryview(bytes(MIB)), out)])
    result = limited(
        *("decrypt", "-", "--key", key, "-o", "/dev/null"), memory=256 * MIB, source=path
    )
    path.unlink()
    assert (result.returncode, result.stderr) == (0, b"")


# age


def age_tool(name: str) -> str:
    return tool(name, "reading and writing age files")


def test_age_reads_what_is_sealed_for_our_pair(tmp_path: Path) -> None:
    key = tmp_path / "key"
    assert dropoffd("keygen", "age", key).returncode == 0
    data = seal(key.with_name("key.pub"), PLAINTEXT, "age")
    command = [age_tool("age"), "--decrypt", "--identity", str(key)]
    assert subprocess.run(command, input=data, capture_output=True, check=True).stdout == PLAINTEXT


def test_what_age_sealed_for_its_own_key_is_decrypted(tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run([age_tool("age-keygen"), "-o", str(key)], check=True, capture_output=True)
    recipient = subprocess.run(
        [age_tool("age-keygen"), "-y", str(key)], check=True, capture_output=True, text=True
    ).stdout.strip()
    other = tmp_path / "other"
    dropoffd("keygen", "age", other)
    others = other.with_name("other.pub").read_text().strip()
    command = [age_tool("age"), "--encrypt", "--recipient", others, "--recipient", recipient]
    data = subprocess.run(command, input=PLAINTEXT, check=True, capture_output=True).stdout
    result = dropoffd("decrypt", "-", "--key", key, input=data)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout == PLAINTEXT


def test_an_age_file_that_was_cut_gets_no_name(tmp_path: Path) -> None:
    key = tmp_path / "key"
    dropoffd("keygen", "age", key)
    data = seal(key.with_name("key.pub"), PLAINTEXT, "age")
    whole = len(data) - len(PLAINTEXT) % SEGMENT - 16
    result = dropoffd("decrypt", "-", "--key", key, "-o", tmp_path / "out", input=data[:whole])
    assert result.returncode == 1
    assert b"envelope_invalid: segment" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_key_of_the_other_format_is_told(key: Path, sealed: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    dropoffd("keygen", "age", other)
    result = dropoffd("decrypt", sealed, "--key", other)
    assert result.returncode == 1
    assert b"the file is sealed by crypt4gh, and the key is for age" in result.stderr
    data = seal(other.with_name("other.pub"), b"hello", "age")
    result = dropoffd("decrypt", "-", "--key", key, input=data)
    assert b"the file is sealed by age, and the key is for crypt4gh" in result.stderr


def test_an_age_key_with_a_passphrase_is_wrong_usage(tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.write_text("correct horse\n")
    result = dropoffd("keygen", "age", tmp_path / "key", "--passphrase-file", words)
    assert result.returncode == 2
    assert not (tmp_path / "key").exists()
