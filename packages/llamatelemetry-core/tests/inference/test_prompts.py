from __future__ import annotations

import threading
import tracemalloc
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.backends.request import InferenceRequest
from llamatelemetry.errors import BackendConnectionError
from llamatelemetry.inference.prompts import PromptTokenizer
from llamatelemetry.inference.tokens import common_prefix, count_tokens


class WordTokenizer:
    """Counts how often each text is asked for."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def __call__(self, text: str) -> list[int]:
        self.asked[text] += 1
        return [sum(word.encode()) for word in text.split()]


def chat(*turns: str) -> InferenceRequest:
    roles = ("user", "assistant")
    return InferenceRequest(
        messages=[
            {"role": "system", "content": "you are a careful assistant"},
            *({"role": roles[index % 2], "content": text} for index, text in enumerate(turns)),
        ]
    )


def test_no_text_is_tokenized_twice_however_a_conversation_grows() -> None:
    words = WordTokenizer()
    tokenizer = PromptTokenizer(words)
    turns = ["hello there", "hi", "how are you", "fine", "good"]
    for length in range(1, len(turns) + 1):
        tokenizer.prompt_of(chat(*turns[:length]))
    tokenizer.prompt_of(chat("another conversation"))
    assert set(words.asked.values()) == {1}


def test_requests_share_as_much_as_their_messages_do() -> None:
    tokenizer = PromptTokenizer(WordTokenizer())
    first = tokenizer.prompt_of(chat("one two three")).tokens
    longer = tokenizer.prompt_of(chat("one two three", "four", "five")).tokens
    other = tokenizer.prompt_of(chat("one two four")).tokens
    assert first is not None
    assert longer is not None
    assert other is not None
    assert common_prefix(first, longer) == count_tokens(first)
    assert common_prefix(first, other) == count_tokens(first) - 1


def test_the_same_words_from_another_speaker_or_with_other_tools_are_another_prompt() -> None:
    tokenizer = PromptTokenizer(WordTokenizer())
    user = tokenizer.prompt_of(InferenceRequest(messages=[{"role": "user", "content": "a b"}])).tokens
    system = tokenizer.prompt_of(InferenceRequest(messages=[{"role": "system", "content": "a b"}])).tokens
    tools = tokenizer.prompt_of(
        InferenceRequest(messages=[{"role": "user", "content": "a b"}], tools=[{"type": "function"}])
    ).tokens
    assert user is not None
    assert system is not None
    assert tools is not None
    assert common_prefix(user, system) == common_prefix(user, tools) == 0


def test_what_a_template_adds_is_learnt_from_reported_counts() -> None:
    tokenizer = PromptTokenizer(WordTokenizer())
    request = chat("one two three")
    content = 5 + 3
    tokenizer.prompt_of(request)
    for _ in range(40):
        tokenizer.learn(request, reported=content + 2 * 11)
    assert tokenizer.prompt_of(request).count == content + 2 * 11
    assert tokenizer.prompt_of(InferenceRequest(prompt="one two three")).count == 4


def test_learning_asks_no_tokenizer_an_answer_would_wait_for_it() -> None:
    words = WordTokenizer()
    tokenizer = PromptTokenizer(words)
    tokenizer.learn(chat("one two three"), reported=100)
    assert not words.asked
    assert tokenizer.prompt_of(chat("one two three")).count == 5 + 3 + 2 * 5


def test_messages_that_are_no_json_are_for_the_backend_to_refuse() -> None:
    endless: dict[str, object] = {"role": "user", "content": "hello"}
    endless["name"] = endless
    for message in ({"role": "user", "content": "hello", 1: "a", "b": "c"}, endless):
        prompt = PromptTokenizer(WordTokenizer()).prompt_of(InferenceRequest(messages=[message]))
        assert (prompt.tokens, prompt.count) == (None, 1)


def test_without_a_tokenizer_or_when_it_fails_nothing_is_claimed() -> None:
    def fails(_text: str) -> list[int]:
        raise BackendConnectionError("127.0.0.1:1", "refused")

    def breaks(_text: str) -> list[int]:
        raise ZeroDivisionError

    for tokenize in (lambda _text: None, fails, breaks, lambda _text: [2**40]):
        prompt = PromptTokenizer(tokenize).prompt_of(chat("hello"))
        assert (prompt.tokens, prompt.content, prompt.count) == (None, 0, 1)


def test_parts_of_a_message_count_by_their_text_and_tell_apart_by_the_rest() -> None:
    words = WordTokenizer()
    tokenizer = PromptTokenizer(words)
    parts = [{"type": "text", "text": "look at"}, {"type": "image_url", "image_url": {"url": "x"}}]
    tokenizer.prompt_of(InferenceRequest(messages=[{"role": "user", "content": parts}]))
    assert list(words.asked) == ["look at\n"]


def test_only_so_much_is_remembered() -> None:
    words = WordTokenizer()
    tokenizer = PromptTokenizer(words, cached_bytes=1000)
    for text in ("a b c", "d e f", "g h i", "j k l", "a b c"):
        tokenizer.prompt_of(InferenceRequest(prompt=text))
    assert words.asked["a b c"] == 2
    assert words.asked["j k l"] == 1


def test_what_is_remembered_takes_no_more_memory_than_it_may_however_short_the_texts() -> None:
    bound = 2**20
    tokenizer = PromptTokenizer(lambda _text: [1] * 4, cached_bytes=bound)
    tracemalloc.start()
    for number in range(6000):
        tokenizer.prompt_of(InferenceRequest(prompt=f"question {number}"))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert bound / 2 < taken < bound * 1.25


@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_any_text_gives_at_least_one_token_and_the_same_ones_again(texts: list[str]) -> None:
    tokenizer = PromptTokenizer(WordTokenizer())
    first, again = (tokenizer.prompt_of(chat(*texts)) for _ in range(2))
    assert first == again
    assert first.count >= 1


def test_many_threads_may_ask_at_once() -> None:
    tokenizer = PromptTokenizer(WordTokenizer(), cached_bytes=4000)
    expected = tokenizer.prompt_of(chat("x y", "z"))
    wrong = []

    def ask() -> None:
        for number in range(200):
            tokenizer.prompt_of(chat(str(number)))
            if tokenizer.prompt_of(chat("x y", "z")) != expected:
                wrong.append(number)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
