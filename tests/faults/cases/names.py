"""What clients call their files, and keys and headers that would break out of what holds them."""

# ruff: noqa: RUF001 - letters that only look alike are the point

from __future__ import annotations

from typing import Final, NamedTuple


class NameCase(NamedTuple):
    """A row: what the client says, and the one harmless step of a path that it becomes."""

    name: str
    said: str
    safe: str


FILES: Final = (
    NameCase("plain", "sample.bam", "sample.bam"),
    NameCase("empty", "", "upload"),
    NameCase("blanks", "   ", "upload"),
    NameCase("a dot", ".", "_"),
    NameCase("two dots", "..", "__"),
    NameCase("three dots", "...", "___"),
    NameCase("hidden", ".bashrc", ".bashrc"),
    NameCase("hidden behind two", "..bashrc", "__bashrc"),
    NameCase("blanks around dots", " .. ", "__"),
    NameCase("one up", "../x", "___x"),
    NameCase("up and down", "a/../../b", "a_.._.._b"),
    NameCase("absolute", "/etc/passwd", "_etc_passwd"),
    NameCase("a drive", "C:\\Windows\\win.ini", "C__Windows_win.ini"),
    NameCase("a share", "\\\\host\\share", "__host_share"),
    NameCase("a stream", "a.txt::$DATA", "a.txt__$DATA"),
    NameCase("a NUL", "a\0.txt", "a_.txt"),
    NameCase("a newline", "a\nb", "a_b"),
    NameCase("a header", "a\r\nX-Evil: 1", "a__X-Evil_ 1"),
    NameCase("a tab", "a\tb", "a_b"),
    NameCase("a bell", "a\x07b", "a_b"),
    NameCase("red", "\x1b[31mred\x1b[0m", "_[31mred_[0m"),
    NameCase("a title for the terminal", "\x1b]0;owned\x07", "_]0;owned_"),
    NameCase("a cleared screen by C1", "\x9b2J", "_2J"),
    NameCase("a delete", "a\x7fb", "a_b"),
    NameCase("a next line", "a\x85b", "a_b"),
    NameCase("a line separator", "a\u2028b", "a_b"),
    NameCase("a paragraph separator", "a\u2029b", "a_b"),
    NameCase("written backwards", "gpj\u202eexe.txt", "gpj_exe.txt"),
    NameCase("isolated", "a\u2066b\u2069", "a_b_"),
    NameCase("a lone surrogate", "a\ud800b", "a_b"),
    NameCase("a byte that was no text", "a\udcffb", "a_b"),
    NameCase("a question", "what?.txt", "what_.txt"),
    NameCase("stars", "*.*", "_._"),
    NameCase("a pipe", "a|b", "a_b"),
    NameCase("quotes", '"a"', "_a_"),
    NameCase("angles", "<script>", "_script_"),
    NameCase("for the shell", "$(reboot)`id`;&", "$(reboot)`id`;&"),
    NameCase("for SQL", "'; DROP TABLE uploads; --", "'; DROP TABLE uploads; --"),
    NameCase("for options", "-rf", "-rf"),
    NameCase("a placeholder", "{study}/{upload}", "{study}_{upload}"),
    NameCase("an escape for URLs", "%2e%2e%2f", "%2e%2e%2f"),
    NameCase("a combined letter", "e\u0301", "\u00e9"),
    NameCase("Chinese", "数据.vcf", "数据.vcf"),
    NameCase("an emoji", "🧬.gz", "🧬.gz"),
    NameCase("400 letters", "x" * 400, "x" * 150),
    NameCase("400 letters and an ending", "x" * 400 + ".fastq", "x" * 144 + ".fastq"),
    NameCase("an ending of 400 letters", "a." + "x" * 400, "a." + "x" * 148),
    NameCase("100 letters of three bytes", "数" * 100, "数" * 50),
    NameCase("a blank where it is cut", "x" * 149 + " " + "y" * 9, "x" * 149),
    NameCase("a letter cut in two", "a" + "数" * 100, "a" + "数" * 49),
)

STEPS: Final = (
    "", "/", "a/", "/a", "a//b", ".", "..", "a/..", "../a", "a/../b", "a/./b", "./a", "a\0b",
    "a/\0", "\ud800", "a/\udcff/b", "x" * 256, "a/" + "数" * 86, "a/" + "x" * 300 + "/b",
)  # fmt: skip
"""Names that no destination which has directories may take."""

HOSTILE_METADATA: Final = (
    NameCase("a study one up", "../../11111111-2222-4333-8444-555555555555", ""),
    NameCase("a study in braces", "{11111111-2222-4333-8444-555555555555}", ""),
    NameCase("a study without dashes", "11111111222243338444555555555555", ""),
    NameCase("a study with a newline", "11111111-2222-4333-8444-555555555555\n", ""),
    NameCase("a study with a blank", " 11111111-2222-4333-8444-555555555555", ""),
    NameCase("a study with a NUL", "11111111-2222-4333-8444-555555555555\0", ""),
    NameCase("a study as a URN", "urn:uuid:11111111-2222-4333-8444-555555555555", ""),
    NameCase("a study of full-width digits", "１1111111-2222-4333-8444-555555555555", ""),
    NameCase("a study of Arabic digits", "١1111111-2222-4333-8444-555555555555", ""),
    NameCase(
        "two studies",
        "11111111-2222-4333-8444-555555555555,11111111-2222-4333-8444-555555555555",
        "",
    ),
    NameCase("a study with a path behind", "11111111-2222-4333-8444-555555555555/../x", ""),
    NameCase("a study of 100 kB", "1" * 100_000, ""),
    NameCase("a study of words", "my study", ""),
    NameCase("no study", "", ""),
    NameCase(
        "a study in capitals",
        "AAAAAAAA-2222-4333-8444-55555555555F",
        "aaaaaaaa-2222-4333-8444-55555555555f",
    ),
    NameCase(
        "a study", "11111111-2222-4333-8444-555555555555", "11111111-2222-4333-8444-555555555555"
    ),
)
