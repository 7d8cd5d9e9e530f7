"""A URI is stored in one form, names that are hard to store stay as they are, and messages hold no secrets."""

from __future__ import annotations

import os

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from beam_pipeline.uris import absolute, is_local, join, local_path, name_of, parent, redacted, scheme_of

HARD_NAMES = [
    "with space.png",
    "100%.png",
    "a%20b.png",
    "num#ber.png",
    "q?*[x].png",
    "früh-早い.png",
    "a:b.png",
    "~.png",
]


@pytest.mark.parametrize(
    ("uri", "scheme"),
    [
        ("s3://bucket/key", "s3"),
        ("S3://bucket/key", "s3"),
        ("file:///a", "file"),
        ("my+scheme.v1-x://a", "my+scheme.v1-x"),
        ("/a/b.png", ""),
        ("b.png", ""),
        ("", ""),
        ("a/b://c", ""),
        ("1s3://b", ""),
        ("C:\\pictures\\a.png", ""),
    ],
)
def test_the_scheme_stands_before_the_first_colon_and_two_slashes(uri, scheme):
    assert scheme_of(uri) == scheme
    assert is_local(uri) == (scheme in ("", "file"))


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///a/b.png", "/a/b.png"),
        ("FILE:///a/b.png", "/a/b.png"),
        ("file://localhost/a/b.png", "/a/b.png"),
        ("file://LocalHost/a/b.png", "/a/b.png"),
        ("file:///a%20b%25.png", "/a b%.png"),
        ("file:///a%2520b.png", "/a%20b.png"),
        ("file:///fr%C3%BCh.png", "/früh.png"),
        ("file:///früh.png", "/früh.png"),
        ("file:///a#b.png", "/a#b.png"),
        ("file:///a%3Fb.png", "/a?b.png"),
        ("file:///a?b.png", "/a?b.png"),
        ("/a%20b.png", "/a%20b.png"),
        ("a%20b.png", "a%20b.png"),
    ],
)
def test_file_uris_are_percent_decoded_and_plain_paths_are_not(uri, path):
    assert local_path(uri) == path


@pytest.mark.parametrize("name", HARD_NAMES)
@pytest.mark.parametrize("base", ["", "/pictures/deep", "file:///pictures/deep"])
def test_a_relative_path_is_taken_literally_from_its_base(name, base):
    assert absolute(name, base) == os.path.join(local_path(base) or os.getcwd(), name)


@pytest.mark.parametrize("name", HARD_NAMES)
@pytest.mark.parametrize("base", ["s3://bucket", "memory://a/b"])
def test_a_relative_path_of_a_remote_list_lies_beside_it(name, base):
    assert absolute(name, base) == f"{base}/{name}"


@pytest.mark.parametrize(
    ("uri", "base", "stored"),
    [
        ("s3://bucket/a b%20#?.png", "/x", "s3://bucket/a b%20#?.png"),
        ("s3://bucket/../a.png", "", "s3://bucket/../a.png"),
        ("https://host/a.png?sig=1", "s3://bucket", "https://host/a.png?sig=1"),
        ("/a/b.png", "/x", "/a/b.png"),
        ("/a/b.png", "s3://bucket/x", "/a/b.png"),
        ("/a/../b.png", "/x", "/a/../b.png"),
        ("file:///a%20b.png", "s3://bucket", "/a b.png"),
        ("./a.png", "/x", "/x/a.png"),
        ("../a.png", "/x/y", "/x/a.png"),
        ("./a.png", "s3://bucket/x", "s3://bucket/x/a.png"),
        ("././b/./a.png", "s3://bucket/x", "s3://bucket/x/b/./a.png"),
        ("../a.png", "s3://bucket/x/y", "s3://bucket/x/a.png"),
        ("../../a.png", "s3://bucket/x/y", "s3://bucket/a.png"),
        (".hidden.png", "s3://bucket/x", "s3://bucket/x/.hidden.png"),
        ("..a.png", "s3://bucket/x", "s3://bucket/x/..a.png"),
    ],
)
def test_the_stored_form_is_absolute(uri, base, stored):
    assert absolute(uri, base) == stored


@settings(deadline=None)
@given(st.text().filter(lambda text: "\0" not in text), st.sampled_from(["", "/x/y", "s3://bucket/x"]))
@example("..", "/x/y")
@example("file:a", "/x/y")
def test_the_stored_form_of_the_stored_form_is_itself(text, base):
    stored = absolute(text, base)
    assert absolute(stored, "/elsewhere") == stored
    assert not is_local(stored) or os.path.isabs(stored)


@pytest.mark.parametrize(
    ("base", "names", "joined"),
    [
        ("/a", ["b", "c.png"], "/a/b/c.png"),
        ("/a/", ["b"], "/a/b"),
        ("/", ["b"], "/b"),
        ("s3://bucket", ["b"], "s3://bucket/b"),
        ("s3://bucket/", ["b"], "s3://bucket/b"),
        ("memory://", ["b"], "memory:///b"),
        ("memory:///", ["b"], "memory:///b"),
        ("/a", [], "/a"),
    ],
)
def test_join_sets_single_slashes_and_leaves_the_scheme_alone(base, names, joined):
    assert join(base, *names) == joined


@pytest.mark.parametrize(
    ("uri", "folder", "name"),
    [
        ("/a/b/c.png", "/a/b", "c.png"),
        ("/c.png", "/", "c.png"),
        ("c.png", "", "c.png"),
        ("s3://bucket/a/c.png", "s3://bucket/a", "c.png"),
        ("s3://bucket/c.png", "s3://bucket", "c.png"),
        ("memory://c.png", "memory://", "c.png"),
        ("memory:///c.png", "memory:///", "c.png"),
        ("/a b/100%#?.png", "/a b", "100%#?.png"),
        ("/a/früh/早い.png", "/a/früh", "早い.png"),
    ],
)
def test_parent_and_name_take_a_uri_apart(uri, folder, name):
    assert (parent(uri), name_of(uri)) == (folder, name)


def test_the_name_of_a_folder_ignores_its_last_slash():
    assert name_of("s3://bucket/run/") == "run"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://h/a.png?sig=SECRET&x=1", "https://h/a.png"),
        ("https://user:SECRET@h/a.png", "https://h/a.png"),
        ("https://user:SEC@RET@h/a.png", "https://h/a.png"),
        ("https://SECRET@h", "https://h"),
        ("s3://b/k?versionId=SECRET", "s3://b/k"),
        ("url='https://h/a?SECRET' and http://u:SECRET@i/b?SECRET end", "url='https://h/a' and http://i/b end"),
        ("503, url=\"https://h/a?SECRET\", 'x'", "503, url=\"https://h/a\", 'x'"),
        ("https://h/früh%20早い.png?t=SECRET", "https://h/früh%20早い.png"),
        ("https://h/a@b.png", "https://h/a@b.png"),
        ("mail to a@b.c, really?", "mail to a@b.c, really?"),
        ("/pictures/what?.png", "/pictures/what?.png"),
    ],
)
def test_messages_hold_neither_credentials_nor_query_strings(text, shown):
    assert redacted(text) == shown


@settings(deadline=None)
@given(st.from_regex(r"[A-Za-z0-9%+_\-@:!$]+", fullmatch=True), st.sampled_from(["user:{}@", "{}@", "a{}:{}@"]))
def test_no_form_of_credentials_comes_through(secret, form):
    uri = f"https://{form.format(secret, secret)}host/a.png?token={secret}"
    assert redacted(f"cannot read {uri} today") == "cannot read https://host/a.png today"
