from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from data_pipelines.corpora.files import FileSource, files_corpus, files_fingerprint
from data_pipelines.documents import Document
from data_pipelines.documents.find import find_files, stored_file
from data_pipelines.documents.pieces import read_documents

NAMES = [
    "File::Spec.txt",
    "a b.txt",
    "a#b.txt",
    "a%20b.txt",
    "a[1].txt",
    "a*.txt",
    "a?.txt",
    "new\nline.txt",
    "back\\slash.txt",
    "{x,y}.txt",
    "file:.txt",
    "~tilde.txt",
    ".hidden.txt",
    "-dash.txt",
    "naïve.txt",
    "工作.txt",
]


def names(pattern: str | Path) -> list[str]:
    return list(find_files(str(pattern), setting="glob"))


def write(folder: Path, *files: str) -> Path:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"text of {name}")
    return folder


@pytest.mark.parametrize("folder", ["plain", "File::Dir", "a b#c%20d", "[x]", "star*?"])
def test_files_of_any_name_are_found_and_read(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is the current one: what it is called is no part of the pattern."""
    monkeypatch.chdir(write(tmp_path / folder, *NAMES, "0.txt"))
    read = files_corpus({"s": FileSource(glob="*.txt")})["s"]
    assert list(read()) == [Document(name, f"text of {name}") for name in sorted([*NAMES, "0.txt"])]
    assert files_fingerprint({"s": FileSource(glob="*.txt")}) == files_fingerprint({"s": FileSource(glob="./*.txt")})


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_any_name_can_be_named_alone(name: str, tmp_path: Path) -> None:
    write(tmp_path, name)
    for pattern in (f"{tmp_path}/{name}", f"file://{tmp_path}/{name}"):
        (file,) = find_files(pattern, setting="glob").values()
        assert [document.text for document in read_documents(file, "x")] == [f"text of {name}"]


def test_a_name_that_is_no_unicode_is_written_out(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/bad\xff.txt"
    with open(path, "w") as file:
        file.write("text")
    write(tmp_path, "b.txt")
    corpus = files_corpus({"s": FileSource(glob=f"{tmp_path}/*.txt")})["s"]
    assert list(corpus()) == [Document("b.txt", "text of b.txt"), Document("bad\\xff.txt", "text")]
    assert files_fingerprint({"s": FileSource(glob=f"{tmp_path}/*.txt")})


def test_a_bracket_in_a_folder_is_escaped_as_the_message_says(tmp_path: Path) -> None:
    write(tmp_path / "[x]", "a.txt")
    with pytest.raises(ValueError, match=r"a \[ that is part of a name is written \[\[\]"):
        names(tmp_path / "[x]/*.txt")
    assert names(tmp_path / "[[]x]/*.txt") == ["a.txt"]


def test_patterns_mean_what_they_mean_elsewhere(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "b.md", "x/a.txt", "x/y/a.txt", "x/y/c.txt", "z/b.txt")
    assert names(tmp_path / "*.txt") == ["a.txt"]
    assert names(tmp_path / "**/a.txt") == ["a.txt", "x/a.txt", "x/y/a.txt"]
    assert names(tmp_path / "x/**/*.txt") == ["a.txt", "y/a.txt", "y/c.txt"]
    assert names(tmp_path / "**/y/**") == ["a.txt", "c.txt"]
    assert names(tmp_path / "*/[!a].txt") == ["b.txt"]
    assert names(tmp_path / "?/?/?.txt") == ["a.txt", "c.txt"]
    assert names(tmp_path / "x/../*.md") == ["b.md"]
    assert len(names(tmp_path / "**")) == 6


def test_links_to_folders_and_files_are_followed(tmp_path: Path) -> None:
    """A glob over a folder that somebody put together of links: none is left out."""
    write(tmp_path / "elsewhere", "a.txt", "deep/b.txt", "single.txt")
    write(tmp_path / "texts", "own.txt")
    (tmp_path / "texts/linked").symlink_to(tmp_path / "elsewhere/deep")
    (tmp_path / "texts/one.txt").symlink_to(tmp_path / "elsewhere/single.txt")
    assert names(tmp_path / "texts/**/*.txt") == ["linked/b.txt", "one.txt", "own.txt"]
    assert names(tmp_path / "texts/*/*.txt") == ["b.txt"]
    assert names(tmp_path / "texts/linked/*.txt") == ["b.txt"]


def test_a_loop_of_links_ends_and_each_file_counts_once_under_its_own_name(tmp_path: Path) -> None:
    write(tmp_path, "z/a.txt", "z/below/b.txt")
    (tmp_path / "z/below/loop").symlink_to(tmp_path)
    (tmp_path / "a_link_that_sorts_first").symlink_to(tmp_path / "z")
    (tmp_path / "z/again.txt").symlink_to(tmp_path / "z/a.txt")
    assert names(tmp_path / "**/*.txt") == ["a.txt", "below/b.txt"]
    assert names(tmp_path / "*/*.txt") == ["a.txt"]


@pytest.mark.parametrize("target", ["nowhere", "gone", "a.txt/below"])
@pytest.mark.parametrize("pattern", ["gone", "*", "gone/*.txt", "*/*.txt", "**/*.txt"])
def test_a_link_to_nowhere_is_named_wherever_it_stands_in_the_pattern(
    pattern: str, target: str, tmp_path: Path
) -> None:
    """What it led to may have been a folder of files that match."""
    write(tmp_path, "a.txt", "x/b.txt")
    (tmp_path / "gone").symlink_to(tmp_path / target)
    with pytest.raises(ValueError, match=rf"/gone is a link to .*/{target}, which leads nowhere; mend it or remove it"):
        names(tmp_path / pattern)


# A root without its capabilities, or anybody else.
WITHOUT_RIGHTS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
WITHOUT_RIGHTS += ["--inh-caps=-dac_override,-dac_read_search"]
FIND = "import sys\nfrom data_pipelines.documents.find import find_files\n"
FIND += "try:\n    print(list(find_files(sys.argv[1], setting='glob')))\nexcept ValueError as error:\n    print(error)"


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may enter every folder")
@pytest.mark.parametrize(
    ("folder", "pattern", "said"),
    [
        ("empty_rights", "*/a.txt", "{} may not be entered"),
        ("no_entry", "*/a.txt", "{} may not be entered"),
        ("no_entry", "**/*.txt", "{} may not be entered"),
        ("empty_rights", "*/*.txt", "{} may not be listed"),
        ("empty_rights", "**/a.txt", "{} may not be listed"),
        ("through_a_link", "through_a_link/*.txt", "{} may not be entered"),
        ("unlisted", "*/a.txt", "['a.txt']"),
    ],
)
def test_a_folder_without_rights_is_named_with_the_right(folder: str, pattern: str, said: str, tmp_path: Path) -> None:
    """One that may be entered but not listed holds the file that is named in full."""
    rights = {"empty_rights": 0o000, "no_entry": 0o444, "through_a_link": 0o000, "unlisted": 0o111}[folder]
    place = write(tmp_path, f"{folder}/a.txt") / folder
    if folder == "through_a_link":
        place = write(tmp_path, "elsewhere/below/a.txt") / "elsewhere"
        shutil.rmtree(tmp_path / folder)
        (tmp_path / folder).symlink_to(place / "below")
    place.chmod(rights)
    try:
        command = [*(WITHOUT_RIGHTS if os.geteuid() == 0 else []), sys.executable, "-c", FIND, str(tmp_path / pattern)]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    finally:
        place.chmod(0o755)
    assert output.startswith(said.format(place)), output
    assert ("leave the folder out" in output) == ("may not" in said)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("folder", r"glob='.*/folder' \(/.*/folder is a folder\); name the files in it: /.*/folder/\*\*"),
        ("pipe", r"\(/.*/pipe is a pipe or a device\); write what it gives to a file first"),
    ],
)
def test_what_is_there_but_no_file_is_said_to_be_that(name: str, said: str, tmp_path: Path) -> None:
    write(tmp_path, "folder/a.txt")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=said):
        names(tmp_path / name)


def test_two_files_whose_names_are_written_alike_are_refused(tmp_path: Path) -> None:
    for name in (b"\xff.txt", b"\\xff.txt"):
        with open(os.fsencode(tmp_path) + b"/" + name, "w") as file:
            file.write("text")
    with pytest.raises(ValueError, match=r"would both be called \\xff\.txt; rename one"):
        names(tmp_path / "*.txt")


@pytest.mark.parametrize("store", ["local://", "FILE://", "file://"])
def test_a_local_pattern_may_name_its_store(store: str, tmp_path: Path) -> None:
    assert names(f"{store}{write(tmp_path, 'a.txt')}/*.txt") == ["a.txt"]


def test_what_is_no_file_does_not_match(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "folder.txt/b.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    assert names(tmp_path / "*.txt") == ["a.txt"]


def test_a_file_on_a_store_may_have_any_name_too() -> None:
    store = fsspec.filesystem("memory")
    for name in ("File::Spec.txt", "a#b.txt", "a%20b.txt", "a[1].txt"):
        store.pipe_file(f"/names/{name}", f"text of {name}".encode())
    files = find_files("memory://names/*.txt", setting="glob")
    texts = [document.text for name, file in files.items() for document in read_documents(file, name)]
    assert texts == [f"text of {name}" for name in sorted(files)]
    assert len(files) == 4


def test_a_file_travels_to_another_process(tmp_path: Path) -> None:
    file = stored_file(str(write(tmp_path, "File::Spec.txt") / "File::Spec.txt"))
    with pickle.loads(pickle.dumps(file)).open() as copy:
        assert copy.read() == b"text of File::Spec.txt"
