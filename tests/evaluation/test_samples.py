"""Sequences of exactly so many tokens, with what was hidden at its place and the answers where they are said to be."""

import numpy as np
import pytest
from tiny_folders import TEXT, random_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ringattn.evaluation.passkey import passkey_cases
from ringattn.evaluation.recall import recall_cases
from ringattn.evaluation.ruler import ruler_cases
from ringattn.evaluation.text import Pieces, book_of
from ringattn.settings.evaluation import RULER_TASKS, RulerConfig


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    return Pieces(random_model(tmp_path_factory.mktemp("model")))


def answers(pieces, sample):
    return [pieces.text(sample.tokens[start:stop]) for start, stop in sample.answers]


def test_passkeys_lie_at_their_depth_and_are_asked_for_at_the_end(pieces):
    cases = passkey_cases(pieces, [600, 700], depths=3, seed=0)
    assert [(case.length, case.name) for case in cases] == [
        (n, d) for n in (600, 700) for d in ("0 %", "50 %", "100 %")
    ]
    for case, place in zip(cases[:3], (0.0, 0.5, 1.0)):
        sample = case.make(0)
        text = pieces.text(sample.tokens)
        key = answers(pieces, sample)[0].strip()
        assert len(sample.tokens) == 600 and len(key) == 5 and text.endswith(f"The pass key is {key}")
        hay = text.split(" there.\n")[-1].split("\nWhat is")[0]
        assert abs(hay.index(f" The pass key is {key}. Remember it.") / (len(hay) - 57) - place) < 0.05
    first, again, other = (cases[0].make(number).tokens for number in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize("haystack", ["noise", "words", "file"])
@pytest.mark.parametrize("spare", [0, 9])
def test_ruler_tasks_fill_their_length_to_the_token(pieces, haystack, spare, tmp_path):
    (tmp_path / "essay.txt").write_text(TEXT)
    ruler = RulerConfig(haystack=str(tmp_path / "essay.txt") if haystack == "file" else haystack, common=2)
    cases = ruler_cases(pieces, RULER_TASKS, [1500, 1700], ruler=ruler, seed=3, spare=spare)
    assert [case.name for case in cases] == [*RULER_TASKS, *RULER_TASKS]
    for case in cases:
        sample = case.make(0)
        assert len(sample.tokens) == case.length
        assert sample.answers[-1][1] == case.length - spare
        prompt = pieces.text(sample.tokens[: sample.prompt])
        assert all(answer.strip() in prompt for answer in answers(pieces, sample)), "what is asked for was said"


def test_ruler_s_answers_are_what_its_questions_ask(pieces):
    ruler = RulerConfig(needles=3, hops=2, common=2)
    made = {case.name: case.make(1) for case in ruler_cases(pieces, RULER_TASKS, [1800], ruler=ruler, seed=0, spare=0)}
    counts = {"single": 1, "multikey": 1, "multivalue": 3, "multiquery": 3, "variables": 3, "common": 2, "frequent": 3}
    assert {name: len(sample.answers) for name, sample in made.items()} == counts
    text = {name: pieces.text(sample.tokens[: sample.prompt]) for name, sample in made.items()}
    said = {name: [word.strip() for word in answers(pieces, sample)] for name, sample in made.items()}
    asked = text["multikey"].split("magic number for ")[-1].split(" mentioned")[0]
    assert f"for {asked} is: {said['multikey'][0]}." in text["multikey"]
    places = [text["multivalue"].index(value) for value in said["multivalue"]]
    assert places == sorted(places), "in the order of the text"
    first, second, third = said["variables"]
    assert f"VAR {second} = VAR {first}." in text["variables"] and f"VAR {third} = VAR {second}." in text["variables"]
    listed = text["common"].split("Question")[0].split()
    often = sorted({w for w in listed if "-" in w}, key=listed.count)[-2:]
    assert set(often) == set(said["common"])
    coded = text["frequent"].split("Question")[0].split("words.")[-1].split()
    ranked = sorted({word for word in coded if word != "...."}, key=coded.count, reverse=True)
    assert ranked[:3] == said["frequent"]


def test_recall_asks_each_key_once_and_puts_its_value_behind():
    nothing = np.zeros(0, dtype=np.int64)
    for power in (1.0, 0.01):
        (case,) = recall_cases([90], [8], vocabulary=60, special={0, 1}, power=power, seed=0, start=nothing)
        sample = case.make(0)
        told = {int(k): int(v) for k, v in sample.tokens[:16].reshape(8, 2)}
        asked = {int(sample.tokens[start - 1]): int(sample.tokens[start]) for start, _ in sample.answers}
        assert asked == told and len(sample.tokens) == 90
        assert not {0, 1} & set(sample.tokens.tolist()) and max(told) < min(told.values())
        assert all((sample.tokens == key).sum() == 2 for key in told)


def test_what_is_too_short_or_too_much_is_refused(pieces):
    with pytest.raises(ValueError, match=r"the task's own words, which take \d+ tokens of this model, but has 50"):
        passkey_cases(pieces, [50], depths=1, seed=0)[0].make(0)
    common, frequent = ruler_cases(pieces, ["common", "frequent"], [300], ruler=RulerConfig(), seed=0, spare=0)
    with pytest.raises(ValueError, match=r"10 common words, 10 times each, take \d+ tokens of this model"):
        common.make(0)
    with pytest.raises(ValueError, match="must come in different numbers, but 300 tokens hold too few words"):
        frequent.make(0)
    nothing = np.zeros(0, dtype=np.int64)
    with pytest.raises(ValueError, match="recall of 16 pairs takes 64 tokens, four a pair, but a sequence has 60"):
        recall_cases([60], [16], vocabulary=400, special=(), power=1.0, seed=0, start=nothing)
    with pytest.raises(ValueError, match=r"recall.pairs may be 19 at most for a vocabulary of 40, got 20"):
        recall_cases([600], [20], vocabulary=40, special=(), power=1.0, seed=0, start=nothing)
    with pytest.raises(ValueError, match="haystack is noise, words or a text file, got 'nois'"):
        ruler_cases(pieces, ["single"], [300], ruler=RulerConfig(haystack="nois"), seed=0, spare=0)


def folder_with(tokenizer, folder):
    tokenizer.save(str(folder / "tokenizer.json"))
    return Pieces(folder)


def test_a_tokenizer_that_cannot_write_an_answer_is_refused(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "?": 1, "The": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ValueError, match=r"'12345' becomes 1 tokens that read '\?'"):
        folder_with(tokenizer, tmp_path).answer(" 12345")


def test_a_tokenizer_that_joins_words_is_refused(tmp_path):
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, " ": 1, "a ": 2}, merges=[("a", " ")]))
    with pytest.raises(ValueError, match="joins 'a' and ' The sky' into one token"):
        folder_with(tokenizer, tmp_path)(" The sky")


def test_a_book_of_the_bible():
    kings = "1 KINGS\n\nChapter 1\n\nNow king.\n\nChapter 2\n\nNow the days.\n"
    bible = f"GENESIS\n\nChapter 1\n\nIn the beginning.\n\n\n{kings}"
    assert book_of(bible, "1 Kings") == kings
    assert book_of(bible, "genesis").endswith("beginning.\n\n\n")
    with pytest.raises(ValueError, match=r"no book 'Genisis'\. Did you mean 'GENESIS'\?"):
        book_of(bible, "Genisis")


def test_pieces_join_to_the_text_with_a_tokenizer_that_marks_words_and_starts(tmp_path):
    """As LLaMA 2's: `▁` before each word, and a token before each text."""
    letters = {letter: place for place, letter in enumerate("<▁\n.0123456789abcdefghijklmnopqrstuvwxyzABCDT")}
    tokenizer = Tokenizer(models.BPE(vocab={**letters, "▁a": len(letters)}, merges=[("▁", "a")]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="< $A", special_tokens=[("<", 0)])
    pieces = folder_with(tokenizer, tmp_path)
    assert pieces.start.tolist() == [0]
    joined = [*pieces.first("The key"), *pieces(" is 12."), *pieces("\nA bad"), *pieces.answer(" 12")]
    assert pieces.text(joined) == "< The key is 12.\nA bad 12"
