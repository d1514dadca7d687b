"""Shows that each check of house.py can fail, and that what is allowed passes."""

import contextlib
import io
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

import house

RUST = pathlib.Path("a.rs")
MARKDOWN = pathlib.Path("a.md")


class Subjects(unittest.TestCase):
    def test_good_ones_pass(self):
        for subject in [
            "cli: reword the help texts",
            "migrate-stream, toolstack/xen: bound a record",
            "Merge branch 'x'",
        ]:
            self.assertIsNone(house.subject_problem(subject), subject)

    def test_a_long_one_is_found(self):
        self.assertIsNone(house.subject_problem("cli: " + "x" * 67))
        self.assertIn("73 characters", house.subject_problem("cli: " + "x" * 68))

    def test_one_without_a_component_is_found(self):
        for subject in ["Reword the help texts", "cli:reword", "cli reword", ": x", "Cli: x"]:
            self.assertIsNotNone(house.subject_problem(subject), subject)


class Columns(unittest.TestCase):
    def found(self, path, text):
        return list(house.long_lines(path, text))

    def test_the_limit_is_100(self):
        self.assertEqual(self.found(RUST, "x" * 100), [])
        found = self.found(RUST, "ok\n" + "x" * 101)
        self.assertEqual(found, ["a.rs:2: 101 columns, 100 are allowed"])

    def test_characters_are_counted_and_not_bytes(self):
        self.assertEqual(self.found(RUST, "─" * 100), [])

    def test_tables_output_and_urls_in_markdown_pass(self):
        self.assertEqual(self.found(MARKDOWN, "| " + "x" * 200), [])
        self.assertEqual(self.found(MARKDOWN, "```text\n" + "x" * 200 + "\n```"), [])
        self.assertEqual(self.found(MARKDOWN, "see https://example.org/" + "x" * 200), [])

    def test_prose_in_markdown_does_not(self):
        self.assertEqual(len(self.found(MARKDOWN, "```\n```\n" + "x" * 101)), 1)
        self.assertEqual(len(self.found(MARKDOWN, "x" * 101 + " https://example.org/")), 1)

    def test_a_table_elsewhere_does_not(self):
        self.assertEqual(len(self.found(RUST, "//! | " + "x" * 200)), 1)


class Docs(unittest.TestCase):
    def found(self, text):
        return [line.split(": ", 1)[0] for line in house.short_docs(RUST, text)]

    def test_one_or_two_words_are_found(self):
        self.assertEqual(self.found("/// Bytes.\nlet x;"), ["a.rs:1"])
        self.assertEqual(self.found("    /// In order.\n"), ["a.rs:1"])
        self.assertEqual(self.found("//! The module.\n\nuse x;"), ["a.rs:1"])

    def test_a_short_paragraph_of_a_long_comment_is_found(self):
        text = "/// Sends a frame to the peer.\n///\n/// Or not.\n"
        self.assertEqual(self.found(text), ["a.rs:3"])

    def test_sentences_headings_and_code_pass(self):
        self.assertEqual(self.found("/// Sends a frame to the\n/// peer.\n"), [])
        self.assertEqual(self.found("/// # Errors\n///\n/// When the peer is gone.\n"), [])
        self.assertEqual(self.found("/// Sends one frame:\n/// ```\n/// send()\n/// ```\n"), [])

    def test_comments_that_are_no_docs_pass(self):
        self.assertEqual(self.found("// Bytes.\n//// Bytes.\nlet x = \"/ / /\";"), [])

    def test_two_items_one_after_the_other_are_two_comments(self):
        self.assertEqual(self.found("/// Bytes.\na: u8,\n/// Pages.\nb: u8,"), ["a.rs:1", "a.rs:3"])

    def test_other_files_pass(self):
        self.assertEqual(list(house.short_docs(MARKDOWN, "/// Bytes.")), [])


class Repository(unittest.TestCase):
    """The whole program, in a repository of its own."""

    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.root = pathlib.Path(holder.name)
        # In a hook git names the repository of the commit that is being made.
        others = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
        environment = mock.patch.dict(os.environ, others, clear=True)
        environment.start()
        self.addCleanup(environment.stop)
        here = os.getcwd()
        os.chdir(self.root)
        self.addCleanup(os.chdir, here)
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit("Whatever this one says, it is from before the rule and even of no component")
        self.git("update-ref", "refs/remotes/origin/main", "HEAD")

    def git(self, *arguments):
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
        hooks = ["-c", "core.hooksPath=/dev/null"]
        subprocess.run(["git", *identity, *hooks, *arguments], check=True, capture_output=True)

    def commit(self, subject):
        self.git("commit", "--quiet", "--allow-empty", "--message", subject)

    def run_house(self, *arguments):
        said = io.StringIO()
        argv = mock.patch.object(sys, "argv", ["house.py", *arguments])
        with argv, contextlib.redirect_stdout(said):
            return house.main(), said.getvalue()

    def test_a_clean_one_passes(self):
        (self.root / "a.md").write_text("[b](b.md)\n")
        (self.root / "b.md").write_text("[home](https://example.org) [there](a.md#part)\n")
        self.commit("docs: add two pages")
        self.assertEqual(self.run_house(), (0, ""))

    def test_a_subject_since_the_base_is_found(self):
        self.commit("No component")
        status, said = self.run_house("subjects")
        self.assertEqual(status, 1)
        self.assertIn("No component", said)
        self.assertNotIn("Whatever", said)

    def test_another_base_can_be_named(self):
        self.commit("No component")
        self.assertEqual(self.run_house("--base", "HEAD", "subjects"), (0, ""))

    def test_a_named_base_must_be_an_ancestor(self):
        status, said = self.run_house("--base", "nosuch", "subjects")
        self.assertEqual((status, said), (1, "subjects: nosuch is no ancestor of HEAD here\n"))

    def test_subjects_are_skipped_where_the_base_is_no_ancestor(self):
        self.git("update-ref", "-d", "refs/remotes/origin/main")
        self.commit("No component")
        status, said = self.run_house()
        self.assertEqual(status, 0)
        self.assertIn("subjects: skipped", said)

    def test_each_check_of_files_fails_the_program(self):
        for name, text in [
            ("a.rs", "/// Bytes.\n"),
            ("a.sh", "x" * 101),
            ("Makefile", "x" * 101),
            ("a.md", "[gone](gone.md)\n"),
        ]:
            path = self.root / name
            path.write_text(text)
            status, said = self.run_house()
            self.assertEqual((status, said.count("\n")), (1, 1), said)
            path.unlink()

    def test_a_script_without_a_suffix_is_looked_at_and_data_is_not(self):
        (self.root / "run").write_text("#!/bin/sh\n" + "x" * 101)
        (self.root / "data").write_text("x" * 101)
        (self.root / "Cargo.lock").write_text("x" * 101)
        status, said = self.run_house("columns")
        self.assertEqual((status, said), (1, "run:2: 101 columns, 100 are allowed\n"))

    def test_what_git_ignores_is_not_looked_at(self):
        (self.root / ".gitignore").write_text("/target\n")
        (self.root / "target").mkdir()
        (self.root / "target/a.rs").write_text("/// Bytes.\n")
        self.assertEqual(self.run_house()[0], 0)

    def test_findings_are_counted_by_directory(self):
        (self.root / "a/b/c").mkdir(parents=True)
        (self.root / "a/b/c/d.rs").write_text("/// Bytes.\n" + "x" * 101)
        self.assertEqual(self.run_house("--count"), (1, "    2 a/b\n"))

    def test_the_message_of_a_commit_is_checked_alone(self):
        (self.root / "a.rs").write_text("/// Bytes.\n")
        message = self.root / "MESSAGE"
        message.write_text("\n# a comment\ncli: reword\n\nWhy.\n")
        self.assertEqual(self.run_house("--message", str(message)), (0, ""))
        message.write_text("Reword\n")
        status, said = self.run_house("--message", str(message))
        self.assertEqual((status, said.count("Reword")), (1, 1))

    def test_an_unknown_check_is_refused(self):
        with contextlib.redirect_stderr(io.StringIO()), self.assertRaises(SystemExit):
            self.run_house("spelling")


if __name__ == "__main__":
    unittest.main()
