"""The data set is checked as a whole: every kind of problem is found, all are listed at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from glomedge.errors import DatasetError, UsageError
from glomedge_export.data.dataset import FOLDERS, read_dataset
from helpers.labelled import SIX_CROPS, crop_png, write_crops, write_csv


def test_reads_names_labels_cases_and_slides(tmp_path: Path) -> None:
    dataset = read_dataset(write_crops(tmp_path))
    assert [item.name for item in dataset.items] == sorted(name for name, _ in SIX_CROPS)
    assert {item.name: item.label for item in dataset.items} == dict(SIX_CROPS)
    assert {item.case for item in dataset.items} == {"B-0", "B-1", "B-2"}
    assert all(item.path.read_bytes() for item in dataset.items)
    np.testing.assert_array_equal(dataset.labels, [item.label for item in dataset.items])


def test_hash_depends_on_content_and_labels_not_on_place(tmp_path: Path) -> None:
    first = read_dataset(write_crops(tmp_path / "a"))
    assert read_dataset(write_crops(tmp_path / "b")).sha256 == first.sha256
    name = SIX_CROPS[0][0]
    (tmp_path / "b" / FOLDERS[0] / name).write_bytes(crop_png(99))
    assert read_dataset(tmp_path / "b").sha256 != first.sha256


def test_accepts_a_byte_order_mark(tmp_path: Path) -> None:
    write_crops(tmp_path)
    path = tmp_path / "public.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_dataset(tmp_path).items) == len(SIX_CROPS)


def test_case_pattern_decides_the_case(tmp_path: Path) -> None:
    dataset = read_dataset(write_crops(tmp_path), r"_(?P<case>[01])[0-9]\.png$", min_cases=0)
    assert {item.case for item in dataset.items} == {"0", "1"}


def _extra_row(directory: Path) -> None:
    write_csv(directory, [*SIX_CROPS, ("gone.png", 0)])


def _unlisted_file(directory: Path) -> None:
    (directory / FOLDERS[0] / "stranger.png").write_bytes(crop_png(7))


def _wrong_folder(directory: Path) -> None:
    write_csv(directory, [(SIX_CROPS[0][0], 1), *SIX_CROPS[1:]])


def _twice(directory: Path) -> None:
    write_csv(directory, [*SIX_CROPS, SIX_CROPS[0]])


def _both_folders(directory: Path) -> None:
    (directory / FOLDERS[1] / SIX_CROPS[0][0]).write_bytes(crop_png(0))


def _truncated(directory: Path) -> None:
    path = directory / FOLDERS[0] / SIX_CROPS[0][0]
    path.write_bytes(path.read_bytes()[:200])


def _missing_column(directory: Path) -> None:
    write_csv(directory, SIX_CROPS, ("name", "label"))


def _label_two(directory: Path) -> None:
    write_csv(directory, [(SIX_CROPS[0][0], 2), *SIX_CROPS[1:]])


def _empty_folder(directory: Path) -> None:
    for path in (directory / FOLDERS[1]).iterdir():
        path.unlink()


def _one_class(directory: Path) -> None:
    _empty_folder(directory)
    write_csv(directory, [row for row in SIX_CROPS if row[1] == 0])


def _two_biopsies(directory: Path) -> None:
    for name, label in SIX_CROPS[-2:]:
        (directory / FOLDERS[label] / name).unlink()
    write_csv(directory, SIX_CROPS[:-2])


def _no_csv(directory: Path) -> None:
    (directory / "public.csv").unlink()


def _path_as_name(directory: Path) -> None:
    write_csv(directory, [*SIX_CROPS, ("../x.png", 0)])


def _empty_csv(directory: Path) -> None:
    (directory / "public.csv").write_bytes(b"")


def _binary_csv(directory: Path) -> None:
    (directory / "public.csv").write_bytes(b"\xff\xfe\x00\x81\x00")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_extra_row, "gone.png: in public.csv but in neither folder"),
        (_unlisted_file, "stranger.png: is in non_globally_sclerotic_glomeruli but not in public.csv"),
        (_wrong_folder, f"{SIX_CROPS[0][0]}: labelled 1 in public.csv but is in {FOLDERS[0]}"),
        (_twice, f"public.csv line 8: {SIX_CROPS[0][0]!r} is listed twice (first in line 2)"),
        (_both_folders, f"{SIX_CROPS[0][0]}: the same name is in both folders"),
        (_truncated, f"{SIX_CROPS[0][0]}: "),
        (_missing_column, "public.csv: there is no column 'ground truth'; it has name, label"),
        (_label_two, f"public.csv line 2: label '2' of {SIX_CROPS[0][0]!r} is neither 0 nor 1"),
        (_empty_folder, f"folder {FOLDERS[1]}: contains no image"),
        (_one_class, "every crop is labelled 0; both labels are needed"),
        (_two_biopsies, "crops labelled 1 come from 2 biopsies, but 3 are needed"),
        (_no_csv, "public.csv: there is no such file"),
        (_path_as_name, "public.csv line 8: '../x.png' is not a file name"),
        (_empty_csv, "public.csv: there is no column 'name' and 'ground truth'; it has none"),
        (_binary_csv, "public.csv: it is not a CSV file"),
    ],
)
def test_each_problem_is_named(tmp_path: Path, damage: Callable[[Path], None], expected: str) -> None:
    damage(write_crops(tmp_path))
    with pytest.raises(DatasetError) as caught:
        read_dataset(tmp_path)
    assert expected in str(caught.value)
    assert str(caught.value).endswith("Fix the files or public.csv, then start again.")


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    write_crops(tmp_path)
    rows: list[tuple[str, object]] = [(SIX_CROPS[0][0], 1), *SIX_CROPS[1:], ("gone.png", 0), ("two.png", 2)]
    write_csv(tmp_path, rows)
    _unlisted_file(tmp_path)
    path = tmp_path / FOLDERS[1] / SIX_CROPS[1][0]
    path.write_bytes(b"no picture")
    with pytest.raises(DatasetError) as caught:
        read_dataset(tmp_path)
    text = str(caught.value)
    for part in ("gone.png: in", "label '2' of 'two.png'", "stranger.png: is in", f"{SIX_CROPS[0][0]}: labelled 1"):
        assert part in text
    assert f"{SIX_CROPS[1][0]}: " in text
    # The label that was changed takes one of three biopsies from label 0, which is said too.
    assert "crops labelled 0 come from 2 biopsies" in text
    assert "has 6 problems" in text


def test_missing_folder_and_directory(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is not a folder"):
        read_dataset(tmp_path / "nowhere")
    write_crops(tmp_path)
    for path in (tmp_path / FOLDERS[1]).iterdir():
        path.unlink()
    (tmp_path / FOLDERS[1]).rmdir()
    with pytest.raises(DatasetError, match=f"folder {FOLDERS[1]}: No such file"):
        read_dataset(tmp_path)


def test_decoding_is_not_repeated_for_known_bytes(tmp_path: Path) -> None:
    _truncated(write_crops(tmp_path))
    asked: list[str] = []

    def known(sha256: str) -> bool:
        asked.append(sha256)
        return True

    dataset = read_dataset(tmp_path, known_good=known)
    assert asked == [dataset.sha256]
    with pytest.raises(DatasetError):
        read_dataset(tmp_path, known_good=lambda _: False)


def test_the_published_crops(real_data: Path) -> None:
    dataset = read_dataset(real_data)
    assert (len(dataset.items), int(dataset.labels.sum())) == (830, 174)


def test_class_folders_with_a_folder_per_slide_are_read_at_any_depth(tmp_path: Path) -> None:
    flat = read_dataset(write_crops(tmp_path / "flat"))
    deep = write_crops(tmp_path / "deep")
    names = {}
    for name, label in SIX_CROPS:
        case, number = name.split("_")[0], f"{label}_{name[-5]}.png"
        target = deep / FOLDERS[label] / "20x" / case / number
        target.parent.mkdir(parents=True, exist_ok=True)
        (deep / FOLDERS[label] / name).rename(target)
        names[f"{case}/{number}"] = label
    write_csv(deep, list(names.items()))
    thumbnail = deep / FOLDERS[0] / "@eaDir" / "1_0.png" / "SYNOPHOTO_THUMB_M.png"
    thumbnail.parent.mkdir(parents=True)
    thumbnail.write_bytes(crop_png(0))
    dataset = read_dataset(deep)
    assert [item.name for item in dataset.items] == sorted(names)
    assert {item.case for item in dataset.items} == {item.case for item in flat.items} == {"B-0", "B-1", "B-2"}
    assert {item.sha256 for item in dataset.items} == {item.sha256 for item in flat.items}
    assert any("@eaDir (1)" in note for note in dataset.notes)
    assert any(
        note.startswith("How the 3 biopsies were found: 6 crops: from the folders 'B-0', 'B-1'")
        for note in dataset.notes
    )


def test_how_the_table_was_read_and_biopsies_were_found_is_noted(tmp_path: Path) -> None:
    write_crops(tmp_path)
    path = tmp_path / "public.csv"
    path.write_bytes(path.read_bytes().replace(b",", b";").replace(b"ground truth", b"Ground_Truth"))
    assert read_dataset(tmp_path).notes == (
        "public.csv was read as semicolon-separated.",
        "How the 3 biopsies were found: 6 crops: by name (stain and part).",
    )
    with pytest.raises(UsageError, match="matches none of the 6 names"):
        read_dataset(tmp_path, "(?P<case>nothing)")


def _copy(directory: Path, source: int, target: int) -> None:
    (name, label), (other, other_label) = SIX_CROPS[source], SIX_CROPS[target]
    data = (directory / FOLDERS[label] / name).read_bytes()
    (directory / FOLDERS[other_label] / other).write_bytes(data)


def test_the_same_bytes_under_two_labels_or_in_two_biopsies_are_refused(tmp_path: Path) -> None:
    _copy(write_crops(tmp_path), 0, 1)
    with pytest.raises(DatasetError, match=r"same image under two labels: B-0_\S+ \(label 0\) = B-0_\S+ \(label 1\)"):
        read_dataset(tmp_path)
    _copy(write_crops(tmp_path), 0, 2)
    with pytest.raises(
        DatasetError, match=r"same image in two biopsies: B-0_\S+ \(biopsy B-0\) = B-1_\S+ \(biopsy B-1\)"
    ):
        read_dataset(tmp_path)
    # A split at random puts biopsies on several sides anyway: said, not refused.
    assert "1 images are listed in two biopsies each: B-0" in " ".join(read_dataset(tmp_path, min_cases=0).notes)


def test_no_message_is_longer_than_two_thousand_characters(tmp_path: Path) -> None:
    write_crops(tmp_path)
    strangers = [(f"{'stranger ' * 15}{k}.png", k % 3) for k in range(300)]
    write_csv(tmp_path, [*SIX_CROPS, *strangers])
    with pytest.raises(DatasetError, match="has 300 problems") as caught:
        read_dataset(tmp_path)
    assert len(str(caught.value)) <= 2000
    assert "more of this kind" in str(caught.value)
    write_csv(tmp_path, [*SIX_CROPS, *((f"{k}.png", 0) for k in range(300))])
    with pytest.raises(DatasetError) as caught:
        read_dataset(tmp_path)
    assert str(caught.value).count("in neither folder") == 20
