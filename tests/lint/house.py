#!/usr/bin/env python3
"""Checks what no compiler checks: commit subjects, line lengths, doc comments, links.

    tests/lint/house.py                       all checks; exit status 1 if any finds something
    tests/lint/house.py columns docs          only these
    tests/lint/house.py --base REV subjects   commit subjects since REV instead of origin/main
    tests/lint/house.py --count               numbers by directory instead of lines

CONTRIBUTING.md gives the rules and their reasons. tests/lint/test_house.py shows that each check
can fail.
"""

import argparse
import collections
import pathlib
import re
import subprocess
import sys

LONGEST_SUBJECT = 72
LONGEST_LINE = 100

SUBJECT = re.compile(r"^[a-z0-9][a-z0-9_./-]*(, [a-z0-9][a-z0-9_./-]*)*: \S")
# git writes these by itself, and fixups are gone before a branch is merged.
GENERATED = re.compile(r"^(Merge |Revert \"|fixup! |squash! )")

SUFFIXES = {".rs", ".md", ".sh", ".c", ".h", ".py", ".toml"}
NAMES = {"Makefile"}
# Written by tools.
GENERATED_FILES = {"Cargo.lock"}

FENCE = re.compile(r"^\s*(?:///?|//!)?\s*```")
URL = re.compile(r"https?://\S+")
# Four slashes are no doc comment.
DOC = re.compile(r"^\s*(//[/!])(?!/) ?(.*)$")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def finding(path, number, text):
    return f"{path}:{number}: {text}"


def subject_problem(subject):
    """What is wrong with a commit's subject; None if nothing."""
    if GENERATED.match(subject):
        return None
    if len(subject) > LONGEST_SUBJECT:
        return f"subject of {len(subject)} characters, {LONGEST_SUBJECT} are allowed"
    if not SUBJECT.match(subject):
        return "subject is not `component: what changes`"
    return None


def is_too_long(path, line, fenced):
    """Whether a line is over the limit and not one of those that cannot be broken."""
    if len(line) <= LONGEST_LINE:
        return False
    if path.suffix == ".md" and (fenced or line.lstrip().startswith("|")):
        return False  # Tables cannot be broken; fenced blocks show a program's output as it is.
    # A line that is long only by a URL. What is left must be short by itself.
    return not URL.search(line) or len(URL.sub("", line)) > LONGEST_LINE


def long_lines(path, text):
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if path.suffix == ".md" and FENCE.match(line):
            fenced = not fenced
        if is_too_long(path, line, fenced):
            yield finding(path, number, f"{len(line)} columns, {LONGEST_LINE} are allowed")


def doc_paragraphs(text):
    """Paragraphs of doc comments outside code blocks: line number and words."""
    number, words, kind, fenced = 0, [], None, False
    for here, line in enumerate(text.splitlines(), 1):
        match = DOC.match(line)
        mark, body = match.groups() if match else (None, "")
        ends = not body.strip() or mark != kind or fenced or body.startswith("```")
        if ends and words:
            yield number, words
            words = []
        if mark and body.startswith("```"):
            fenced = not fenced
        elif mark and not fenced and body.strip():
            number = number if words else here
            words = words + body.split()
        kind = mark
        if not mark:
            fenced = False
    if words:
        yield number, words


def short_docs(path, text):
    if path.suffix != ".rs":
        return
    for number, words in doc_paragraphs(text):
        is_heading = set(words[0]) == {"#"}
        if len(words) <= 2 and not is_heading:
            yield finding(path, number, f"a doc comment of {len(words)} word(s): {' '.join(words)}")


def broken_links(path, text):
    if path.suffix != ".md":
        return
    for number, line in enumerate(text.splitlines(), 1):
        for target in LINK.findall(line):
            name = target.split("#")[0]
            if name and not URL.match(target) and not (path.parent / name).exists():
                yield finding(path, number, f"no such file: {target}")


FILE_CHECKS = {"columns": long_lines, "docs": short_docs, "links": broken_links}


def git(*arguments):
    result = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else None


def is_text(path):
    if path.name in GENERATED_FILES or path.is_symlink():
        return False
    if path.suffix in SUFFIXES or path.name in NAMES:
        return True
    try:
        with path.open("rb") as file:
            return path.suffix == "" and file.read(2) == b"#!"
    except OSError:
        return False


def tracked():
    """The files that are checked, of those that git knows or would take."""
    listed = git("ls-files", "--cached", "--others", "--exclude-standard", "-z") or ""
    paths = [pathlib.Path(name) for name in listed.split("\0") if name]
    return [path for path in paths if path.is_file() and is_text(path)]


def check_files(names):
    found = []
    for path in tracked():
        text = path.read_text(encoding="utf-8")
        for name in names:
            found += FILE_CHECKS[name](path, text)
    return found


def check_subjects(base):
    """Only commits that a branch adds: those from before the rule need not keep it."""
    named, base = base is not None, base or "origin/main"
    if git("merge-base", "--is-ancestor", base, "HEAD") is None:
        problem = f"{base} is no ancestor of HEAD here"
        if not named:
            print(f"subjects: skipped, {problem}")
        return [f"subjects: {problem}"] if named else []
    log = git("log", "--no-merges", "--format=%h %s", f"{base}..HEAD") or ""
    commits = [line.split(" ", 1) for line in log.splitlines()]
    problems = [(commit, subject, subject_problem(subject)) for commit, subject in commits]
    return [f"{commit}: {what}: {subject}" for commit, subject, what in problems if what]


def check_message(file):
    """The message of a commit that is being made."""
    lines = pathlib.Path(file).read_text(encoding="utf-8").splitlines()
    subject = next((line for line in lines if line and not line.startswith("#")), "")
    problem = subject_problem(subject)
    if problem:
        print(f"{problem}: {subject}")
    return 1 if problem else 0


def directory(line):
    """Where a finding is, by its first two folders."""
    return "/".join(pathlib.PurePath(line.split(":")[0]).parent.parts[:2]) or "."


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checks", nargs="*", metavar="CHECK")
    parser.add_argument("--base", help="check the subjects of commits since this one")
    parser.add_argument("--count", action="store_true", help="numbers by directory")
    parser.add_argument("--message", metavar="FILE", help="check the subject in FILE alone")
    options = parser.parse_args()
    if options.message:
        return check_message(options.message)
    known = ["subjects", *FILE_CHECKS]
    checks = options.checks or known
    if unknown := set(checks) - set(known):
        parser.error(f"no such check: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    found = check_subjects(options.base) if "subjects" in checks else []
    found += check_files([name for name in checks if name in FILE_CHECKS])
    if options.count:
        found_in = collections.Counter(map(directory, found))
        print("\n".join(f"{count:5} {name}" for name, count in found_in.most_common()))
    else:
        print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
