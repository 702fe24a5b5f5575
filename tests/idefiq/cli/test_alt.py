"""`idefiq alt`, `review` and `lint-alt`: from a site without texts to one with reviewed texts."""

import csv
import json
import re
from pathlib import Path

import pytest

from db.vocabulary.errors import FetchFailed
from idefiq import Client
from idefiq.alt import drafts
from tests import pictures
from tests.idefiq.cli.conftest import Command
from tests.played import Played

PAGES = {
    "index.html": '<html lang="en"><title>Home</title><h1>Boats</h1><img src="a.png">'
    '<a href="more.html"><img src="b.png"></a><img src="c.png" alt="A person\'s text">',
    "more.html": '<html lang="en"><title>More</title><p><img src="a.png"> again</p>'
    '<img src="b.png" role="presentation"><img src="gone.png">',
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two pages: three texts are missing, for two pictures, of which one leads somewhere."""
    made = tmp_path / "site"
    made.mkdir()
    for name, text in PAGES.items():
        (made / name).write_text(text)
    for number, name in enumerate("abc"):
        (made / f"{name}.png").write_bytes(pictures.plain(size=(8, 8 + number)))
    monkeypatch.chdir(tmp_path)
    return made


@pytest.fixture
def job_id(site: Path, command: Command, played: Played, client: Client) -> str:
    """The drafts of the site."""
    with played.running("A red boat."):
        result = command("alt", "draft", "site")
    assert result.exit_code == 0, result.output
    [job] = client.jobs()
    return job.id


def whole(site: Path) -> dict[str, str]:
    return {name: (site / name).read_text() for name in PAGES}


class TestLooking:
    def test_a_check_lists_what_is_missing_and_fails_without_a_service(
        self, site: Path, command: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("IDEFIQ_URL", "http://127.0.0.1:1")

        result = command("alt", "check", "site")

        assert result.exit_code == 1
        lines = result.stdout.splitlines()
        assert lines[0] == "index.html:1: missing, informative: a.png (it is part of the content)"
        assert lines[-1] == (
            '6 images on 2 pages: 1 are fine, 3 need a text, 1 are decorative and need alt="",'
            " 1 need a person; 0 notes"
        )
        assert whole(site) == PAGES

    def test_a_check_passes_when_every_image_has_its_text(
        self, site: Path, command: Command
    ) -> None:
        (site / "index.html").write_text('<img src="c.png" alt="A person\'s text">')
        (site / "more.html").write_text('<img src="c.png" alt="">')

        assert command("alt", "check", "site").exit_code == 0

    def test_a_dry_run_prints_the_number_of_images_to_ask_as_json(
        self, site: Path, command: Command
    ) -> None:
        result = command("alt", "draft", "site", "--dry-run", "--json", "--report", "r.json")

        assert json.loads(result.stdout) == {
            "pages": 2, "images": 6, "ok": 1, "empty": 1, "ask": 3, "person": 1,
            "notes": 0, "unread": 0, "to_ask": 2,
        }  # fmt: skip
        report = json.loads(Path("r.json").read_text())
        assert [one["state"] for one in report["images"]] == [
            "ask", "ask", "ok", "ask", "empty", "person",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("alt", "draft", "nowhere"), "'nowhere' does not exist"),
            (("alt", "check", "site", "--report", "r.xml"), "ends in .json or .csv"),
            (("alt", "check", "empty"), "no pages in empty"),
            (("alt", "site", "--drafts"), "--drafts requires"),
            (("alt", "site", "--check", "--write"), "write no pages"),
        ],
    )
    def test_a_mistake_is_named(
        self, words: tuple[str, ...], said: str, site: Path, command: Command
    ) -> None:
        (site.parent / "empty").mkdir()

        result = command(*words)

        assert result.exit_code != 0
        assert said in str(result.exception)


class TestDrafting:
    def test_each_image_is_asked_about_once_with_the_context_of_its_page(
        self, job_id: str, client: Client, site: Path
    ) -> None:
        found = list(client.reviews(job_id))

        assert [(one.page, one.context["source"]) for one in found] == [
            ("index.html", "a.png, line 1; also on more.html"),
            ("index.html", "b.png, line 1"),
        ]
        contexts = {one.context["role"]: one.context for one in found}
        assert contexts["informative"]["heading"] == "Boats"
        assert contexts["functional"]["destination"] == "More (more.html)"
        assert {one.text for one in found} == {"A red boat."}
        assert whole(site) == PAGES

    def test_nothing_is_asked_twice_also_when_pages_have_grown(
        self, job_id: str, client: Client, command: Command, played: Played, site: Path
    ) -> None:
        again = command("alt", "draft", "site")
        (site / "new.html").write_text('<html lang="en"><img src="c.png"><img src="a.png">')
        with played.running("New."):
            grown = command("alt", "draft", "site")

        assert "2 images have drafts already" in again.stderr
        assert [job.counts.total for job in client.jobs()] == [1, 2]
        assert [one.text for one in client.reviews()] == ["A red boat.", "A red boat.", "New."]
        assert "idefiq alt apply" in grown.stdout

    def test_what_has_failed_is_named_with_its_image_and_asked_about_again(
        self, site: Path, command: Command, played: Played, client: Client
    ) -> None:
        away = FetchFailed("the image's server failed")
        with played.meanwhile(lambda: played.fail(played.claim(), away)):
            failed = command("alt", "draft", "site")
        with played.running("A boat."):
            again = command("alt", "draft", "site")

        assert failed.exit_code == 1
        assert "failed: index.html:1: a.png: the image's server failed" in failed.stderr
        assert again.exit_code == 0, again.output
        assert [one.text for one in client.reviews()] == ["A boat.", "A boat."]

    def test_what_was_cancelled_is_asked_about_again(
        self, site: Path, command: Command, played: Played, client: Client
    ) -> None:
        def cancel() -> None:
            for job in client.jobs():
                client.cancel(job)
            played.upkeep.run_once()

        with played.meanwhile(cancel):
            cancelled = command("alt", "draft", "site")
        with played.running("A boat."):
            again = command("alt", "draft", "site")

        assert cancelled.exit_code == 1
        assert "failed: index.html:1: a.png: cancelled" in cancelled.stderr
        assert again.exit_code == 0, again.output
        assert [one.text for one in client.reviews()] == ["A boat.", "A boat."]

    def test_what_was_drafted_while_the_site_was_read_is_not_asked_again(
        self,
        site: Path,
        command: Command,
        played: Played,
        client: Client,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with played.running("A boat."):
            command("alt", "draft", "site")
        monkeypatch.setattr(drafts, "drafted", lambda *_: [])  # as it was a moment ago

        again = command("alt", "draft", "site")

        assert again.exit_code == 0, again.output
        assert len(list(client.jobs())) == 1

    def test_the_context_of_the_page_can_be_left_out(
        self, site: Path, command: Command, played: Played, client: Client
    ) -> None:
        with played.running():
            command(
                "alt",
                "draft",
                "site",
                "--no-context",
                "--target-length",
                "60",
                "--language",
                "French",
            )

        contexts = [one.context for one in client.reviews()]
        assert all(not one.keys() & {"heading", "page_title", "surrounding"} for one in contexts)
        assert {one["target_length"] for one in contexts} == {60}

    def test_a_person_s_text_is_asked_about_with_force_alone(
        self, site: Path, command: Command, played: Played, client: Client
    ) -> None:
        with played.running():
            command("alt", "draft", "site", "--force")

        assert len(list(client.reviews())) == 3
        assert whole(site) == PAGES


class TestApplying:
    def test_unreviewed_drafts_are_not_written(
        self, job_id: str, command: Command, site: Path
    ) -> None:
        result = command("alt", "apply", "site", "--job", job_id)

        assert result.exit_code == 0, result.output
        assert "idefiq alt apply" in result.stdout
        assert (site / "index.html").read_text() == PAGES["index.html"]
        assert (site / "more.html").read_text() == PAGES["more.html"].replace(
            'role="presentation"', 'role="presentation" alt=""'
        )

    def test_accepted_texts_are_written_wherever_their_image_occurs(
        self, job_id: str, command: Command, client: Client, site: Path
    ) -> None:
        for one in client.reviews(job_id):
            if one.context["role"] == "informative":
                client.decide(one, "edit", text="Two boats & a gull", reviewer="Ada")

        command("alt", "apply", "site", "--job", job_id)

        for name in PAGES:
            assert '<img src="a.png" alt="Two boats &amp; a gull">' in (site / name).read_text()
        assert '<img src="b.png"></a>' in (site / "index.html").read_text()

    def test_drafts_are_written_on_request_marked_and_replaced_by_what_is_accepted_later(
        self, job_id: str, command: Command, client: Client, site: Path
    ) -> None:
        command("alt", "apply", "site", "--job", job_id, "--unreviewed")
        drafted = (site / "index.html").read_text()
        unreviewed = command("alt", "check", "site")
        for one in client.reviews(job_id):
            client.decide(one, "accept")
        command("alt", "apply", "site", "--job", job_id)

        assert drafted.count('alt="A red boat." data-alt-draft=""') == 2
        assert "index.html:1: draft, informative: a.png" in unreviewed.stdout
        assert "data-alt-draft" not in (site / "index.html").read_text()
        assert (site / "index.html").read_text().count('alt="A red boat."') == 2

    def test_a_decision_whose_image_is_not_on_the_site_is_reported(
        self, job_id: str, command: Command, client: Client, site: Path
    ) -> None:
        for one in client.reviews(job_id):
            client.decide(one, "accept")
        (site / "b.png").write_bytes(pictures.plain("blue"))

        result = command("alt", "apply", "site", "--job", job_id)

        assert result.exit_code == 1
        assert "no image on this site for the decision about index.html b.png" in result.stderr
        assert "2 pages written" in result.stdout

    def test_a_patch_is_printed_and_the_pages_stay(
        self, job_id: str, command: Command, site: Path
    ) -> None:
        result = command("alt", "apply", "site", "--job", job_id, "--unreviewed", "--patch", "-")

        assert result.stdout.startswith("--- a/index.html\n+++ b/index.html\n")
        assert result.stdout.endswith("\\ No newline at end of file\n")
        assert whole(site) == PAGES

    def test_a_report_lists_the_outcome_of_every_image(
        self, job_id: str, command: Command, client: Client, site: Path
    ) -> None:
        for one in client.reviews(job_id):
            client.decide(one, "accept")

        command("alt", "apply", "site", "--job", job_id, "--report", "r.csv")

        with Path("r.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["new_alt"] for row in rows] == [
            "A red boat.",
            "A red boat.",
            "",
            "A red boat.",
            "",
            "",
        ]
        assert [row["review"] for row in rows][:2] == ["accepted", "accepted"]

    def test_a_site_with_every_text_reviewed_passes_the_check(
        self, job_id: str, command: Command, client: Client, site: Path
    ) -> None:
        for one in client.reviews(job_id):
            client.decide(one, "accept")
        page = site / "more.html"
        page.write_text(page.read_text().replace('<img src="gone.png">', ""))

        command("alt", "apply", "site", "--job", job_id)

        assert command("alt", "check", "site").exit_code == 0


class TestReviewing:
    def answered(self, command: Command, lines: str, *words: str) -> str:
        result = command("review", *words, input=lines)
        assert result.exit_code == 0, result.output
        return str(result.stdout)

    def test_a_person_decides_one_after_the_other(
        self, job_id: str, command: Command, client: Client
    ) -> None:
        said = self.answered(command, "a\ne\nMine\n", job_id, "--reviewer", "Ada")

        assert "1 of 2" in said
        assert "2 decided, 0 left" in said
        found = {one.state: one for one in client.reviews(job_id)}
        assert set(found) == {"accepted", "edited"}
        assert found["edited"].text == "Mine"
        assert found["edited"].reviewer == "Ada"

    def test_the_last_decision_can_be_undone_and_the_rest_left_for_later(
        self, job_id: str, command: Command, client: Client
    ) -> None:
        said = self.answered(command, "s\nr\nu\nx\nr\n", job_id)

        assert "[a]ccept [e]dit" in said
        assert "1 decided, 1 left" in said
        states = sorted(one.state for one in client.reviews(job_id))
        assert states == ["rejected", "unreviewed"]

    def test_a_conflict_is_reported_and_the_current_draft_is_shown(
        self, job_id: str, command: Command, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keys = iter(["a", "s", "q"])

        def press(_: str) -> str:
            key = next(keys)
            if key == "a":  # somebody else is faster
                [first, *_rest] = client.reviews(job_id, states=["unreviewed"])
                client.decide(first, "edit", text="Theirs", reviewer="Bo")
            return key

        monkeypatch.setattr("builtins.input", press)
        result = command("review", job_id)

        assert "Bo has decided since you looked" in result.stderr
        assert "Theirs" in result.stdout
        assert "edited by Bo" in result.stdout

    def test_an_image_of_a_link_cannot_be_decorative(
        self, job_id: str, command: Command, client: Client
    ) -> None:
        result = command("review", job_id, input="s\nd\nq\n")

        assert "it is all that a link or a button has" in result.stderr
        assert {one.state for one in client.reviews(job_id)} == {"unreviewed"}

    @pytest.mark.parametrize("words", [("job_nope",), ("job_nope", "--csv", "q.csv")])
    def test_a_missing_job_is_reported(
        self, words: tuple[str, ...], job_id: str, command: Command
    ) -> None:
        assert "no such job" in str(command("review", *words).exception)

    def test_a_spreadsheet_can_be_brought_back_twice(
        self, job_id: str, command: Command, client: Client
    ) -> None:
        self.answered(command, "", job_id, "--csv", "queue.csv")
        text = Path("queue.csv").read_text().replace("\r\n", "\n")
        Path("queue.csv").write_text(re.sub(r",$", ",accept", text, flags=re.M))

        first = self.answered(command, "", "--import-csv", "queue.csv")
        second = self.answered(command, "", "--import-csv", "queue.csv")

        assert "2 decisions taken, 0 refused" in first
        assert "0 decisions taken, 0 refused" in second

    def test_the_image_can_be_opened(self, job_id: str, command: Command) -> None:
        said = self.answered(command, "o\nq\n", job_id)

        path = re.search(r"(/\S+idefiq-\S+)$", said, re.MULTILINE)
        assert path
        assert Path(path[1]).read_bytes().startswith(b"\x89PNG")
        Path(path[1]).unlink()

    def test_a_spreadsheet_takes_the_queue_and_brings_decisions_back(
        self, job_id: str, command: Command, client: Client
    ) -> None:
        self.answered(command, "", job_id, "--csv", "queue.csv")
        with Path("queue.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        rows[0]["decision"] = "accept"
        rows[1]["text"] = "=Mine"
        with Path("queue.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=";")
            writer.writeheader()
            writer.writerows(rows)

        said = self.answered(command, "", "--import-csv", "queue.csv", "--reviewer", "Cy")

        assert "2 decisions taken, 0 refused" in said
        found = {one.state: one for one in client.reviews(job_id)}
        assert found["edited"].text == "=Mine"
        assert found["accepted"].reviewer == "Cy"

    def test_a_row_that_was_decided_meanwhile_is_refused_and_the_others_are_taken(
        self, job_id: str, command: Command, client: Client
    ) -> None:
        self.answered(command, "", job_id, "--csv", "queue.csv")
        text = Path("queue.csv").read_text()
        Path("queue.csv").write_text(
            re.sub(r",$", ",reject", text.replace("\r\n", "\n"), flags=re.M)
        )
        [first, _] = client.reviews(job_id)
        client.decide(first, "edit", text="Theirs", reviewer="Bo")

        result = command("review", "--import-csv", "queue.csv")

        assert result.exit_code == 1
        assert "1 decisions taken, 1 refused" in result.stdout
        assert "Bo has decided since you looked" in result.stderr
        assert sorted(one.state for one in client.reviews(job_id)) == ["edited", "rejected"]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("a,b\n1,2\n", "lacks the columns decision, index, job, revision, text"),
            ("job,index,revision,text,decision\nj,x,0,t,accept\n", "must be left as"),
            ("job,index,revision,text,decision\nj,0,0,t,praise\n", "invalid decision: 'praise'"),
            ("job,index,revision,text,decision\nj,0,0,t,accept\n", "has no draft"),
        ],
    )
    def test_a_spreadsheet_that_is_none_of_ours_is_refused_with_the_reason(
        self, text: str, said: str, command: Command, tmp_path: Path
    ) -> None:
        path = tmp_path / "queue.csv"
        path.write_text(text)

        result = command("review", "--import-csv", path)

        assert result.exit_code == 1
        assert said in result.stderr + str(result.exception)


class TestTheLinter:
    def test_the_texts_of_pages_are_linted(self, site: Path, command: Command) -> None:
        (site / "index.html").write_text(
            '<img src=a.png alt="boat.png">\n<figure><img src=a.png alt="A boat">'
            '<figcaption>A boat</figcaption></figure>\n<img src=a.png alt="">'
        )

        result = command("alt", "lint", "site")

        assert result.exit_code == 1
        assert result.stdout.splitlines() == [
            "index.html:1: file_name: 'boat.png' is the name of a file: say what it shows",
            "index.html:2: repeats: the same is said beside the image: say what that does not",
        ]

    def test_or_at_texts_alone_and_advice_is_no_failure_unless_it_is_strict(
        self, command: Command
    ) -> None:
        mild = command("alt", "lint", "--text", "a boat")
        strict = command("alt", "lint", "--text", "a boat", "--strict", "--json")
        lines = command("alt", "lint", "-", input="A boat\nimage\n")

        assert (mild.exit_code, mild.stdout) == (
            0,
            "--text 1: lower_case: begin with a capital letter\n",
        )
        assert (strict.exit_code, json.loads(strict.stdout)["code"]) == (1, "lower_case")
        assert (lines.exit_code, lines.stdout.split(":")[0]) == (1, "line 2")

    def test_a_source_is_required(self, command: Command) -> None:
        assert "nothing to check" in str(command("alt", "lint").exception)


class TestFormOfRelease01:
    """`idefiq alt SITE` with options, and `lint-alt`."""

    def test_options_in_place_of_commands_work_and_warn(
        self, job_id: str, command: Command, client: Client, site: Path
    ) -> None:
        for one in client.reviews(job_id):
            client.decide(one, "accept")

        checked = command("alt", "site", "--check")
        written = command("alt", "site", "--apply", job_id)
        linted = command("lint-alt", "--text", "A boat.")

        assert checked.exit_code == 1
        assert "use `idefiq alt check` instead" in checked.stderr
        assert written.exit_code == 0
        assert "use `idefiq alt draft`, then `idefiq alt apply` instead" in written.stderr
        assert "pages written" in written.stdout
        assert (linted.exit_code, linted.stdout) == (0, "")
        assert "`lint-alt` is called `alt lint`" in linted.stderr

    def test_pages_are_written_and_reported_although_a_draft_has_failed(
        self, command: Command, played: Played, site: Path
    ) -> None:
        away = FetchFailed("the image's server failed")
        with played.meanwhile(lambda: played.fail(played.claim(), away)):
            result = command("alt", "site", "--write", "--drafts", "--report", "r.json", "--json")

        assert result.exit_code == 1
        assert json.loads(result.stdout)["failed"] != []
        assert Path("r.json").exists()
        assert (site / "more.html").read_text() == PAGES["more.html"].replace(
            'role="presentation"', 'role="presentation" alt=""'
        )

    def test_a_patch_on_standard_output_holds_nothing_else(
        self, command: Command, played: Played, site: Path
    ) -> None:
        with played.running():
            result = command("alt", "site", "--drafts", "--patch", "-")

        assert result.exit_code == 0, result.output
        assert result.stdout.startswith("--- ")
        assert "images on" not in result.stdout


def test_what_was_accepted_is_written_without_naming_a_job(
    job_id: str, command: Command, client: Client, site: Path
) -> None:
    for one in client.reviews(job_id):
        client.decide(one, "accept")

    result = command("alt", "apply", "site")

    assert result.exit_code == 0, result.output
    assert 'alt="A red boat."' in (site / "index.html").read_text()


def test_a_queue_in_a_spreadsheet_is_not_overwritten_unasked(
    job_id: str, command: Command, tmp_path: Path
) -> None:
    Path("queue.csv").write_text("a colleague's work")

    refused = command("review", job_id, "--csv", "queue.csv")
    kept = Path("queue.csv").read_text()
    replaced = command("review", job_id, "--csv", "queue.csv", "--overwrite")

    assert "'queue.csv' exists; replace it with --overwrite" in str(refused.exception)
    assert kept == "a colleague's work"
    assert replaced.exit_code == 0, replaced.output
    assert "job,index,revision" in Path("queue.csv").read_text()
