"""What routing reads of a body, and how bad bodies are refused."""

import pytest

from global_scheduler.bodies import parse_chat, parse_completion
from global_scheduler.errors import BadRequest
from wire.prediction import MAX_PRIORITY


@pytest.mark.parametrize(
    ("prompt", "texts", "num_given"),
    [
        (b'"hi"', ("hi",), 0),
        (b'["a","b"]', ("a", "b"), 0),
        (b"[1,2,3]", (), 3),
        (b"[[1,2],[3]]", (), 3),
        ('"日本語 🌠"'.encode(), ("日本語 🌠",), 0),
    ],
)
def test_every_form_of_prompt_is_counted(
    prompt: bytes, texts: tuple[str, ...], num_given: int
) -> None:
    """OpenAI allows a text, texts, token ids, and lists of token ids."""
    request = parse_completion(b'{"prompt":' + prompt + b',"unknown":{"x":1}}')
    assert (request.texts, request.num_given_tokens) == (texts, num_given)


@pytest.mark.parametrize(
    ("body", "num_sequences"),
    [
        (b'{"prompt":"x"}', 1),
        (b'{"prompt":[1,2,3]}', 1),
        (b'{"prompt":[[1],[2]],"n":3}', 6),
        (b'{"prompt":["a","b"]}', 2),
    ],
)
def test_sequences_are_counted(body: bytes, num_sequences: int) -> None:
    """Each prompt is answered as often as the client asks."""
    assert parse_completion(body).num_sequences == num_sequences


def test_chat_content_may_come_in_parts() -> None:
    """Texts of parts count, images do not."""
    request = parse_chat(
        b'{"messages":[{"role":"system","content":"s"},{"role":"user","content":'
        b'[{"type":"text","text":"t"},{"type":"image_url","image_url":{"url":"x"}}]}],'
        b'"max_tokens":9,"max_completion_tokens":5,"stream":true}'
    )
    assert request.texts == ("s", "t")
    assert request.max_tokens == 5
    assert request.stream


def test_a_conversation_tells_what_its_answer_depends_on() -> None:
    """The newest user message, the system message and the user message before, answers' sizes."""
    request = parse_chat(
        b'{"messages":[{"role":"system","content":"be brief"},'
        b'{"role":"user","content":"one"},{"role":"assistant","content":"four"},'
        b'{"role":"user","content":[{"type":"text","text":"t"},{"type":"text","text":"wo"}]},'
        b'{"role":"assistant","content":null},{"role":"tool","content":"sunny"},'
        b'{"role":"assistant","content":"sixsix"},'
        b'{"role":"user","content":"three"}],"max_tokens":9}'
    )
    question = request.length_question("m", 42)
    assert (question.text, question.context) == ("three", "be brief\nt\nwo")
    assert question.earlier_answer_characters == [4, 6]
    assert (question.model, question.num_prompt_tokens, question.max_tokens) == ("m", 42, 9)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [(b'"hi"', "hi"), (b'["a","longest","b"]', "longest"), (b"[1,2]", ""), (b'""', "")],
)
def test_a_completion_asks_about_its_longest_prompt(prompt: bytes, text: str) -> None:
    """Token ids have no text."""
    question = parse_completion(b'{"prompt":' + prompt + b"}").length_question("m", 1)
    assert (question.text, question.context) == (text, "")


def test_a_chat_without_a_user_asks_about_its_last_message() -> None:
    """Whoever wrote it."""
    request = parse_chat(b'{"messages":[{"role":"tool","content":"sunny"}]}')
    assert request.length_question("m", 1).text == "sunny"


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        (b"{", None, "not valid JSON"),
        (b"\xff\xfe", None, "not valid JSON"),
        (b"[]", None, "Expected `object`"),
        (b"{}", "prompt", "provide a prompt"),
        (b'{"prompt":5}', "prompt", "Expected"),
        (b'{"prompt":"x","max_tokens":-1}', "max_tokens", "got -1"),
        (b'{"prompt":"x","max_tokens":0}', "max_tokens", "at least 1"),
        (b'{"prompt":"x","max_tokens":"9"}', "max_tokens", "Expected `int"),
        (b'{"prompt":"x","max_tokens":NaN}', None, "not valid JSON"),
        (b'{"prompt":"x","n":0}', "n", "got 0"),
        (b'{"prompt":"x","stream":"yes"}', "stream", "Expected `bool"),
        (b'{"prompt":' + b"[" * 100_000, "prompt[0][0]", "Expected `int`"),
        (b'{"x":' + b"[" * 100_000, None, "nested too deeply"),
    ],
)
def test_bad_bodies_name_the_field(body: bytes, param: str | None, words: str) -> None:
    """A client learns which field is wrong and what it held."""
    with pytest.raises(BadRequest) as error:
        parse_completion(body)
    assert error.value.param == param
    assert words in error.value.message


def test_absurd_priorities_are_bounded_for_the_sidecars() -> None:
    """The engine gets them as they are; a question that holds them would be refused."""
    request = parse_completion(b'{"prompt":"x","priority":-99999999999999999999}')
    assert request.priority == -MAX_PRIORITY


def test_chat_needs_messages() -> None:
    """An empty conversation is refused."""
    with pytest.raises(BadRequest, match="at least one message"):
        parse_chat(b'{"messages":[]}')
