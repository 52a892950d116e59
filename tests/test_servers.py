"""data/servers.py: answers in order, whatever the server does; its own words where it gives none.
"""
import contextlib
import email.utils
import gzip
import json
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from data import servers
from data.rows import ROOT, UserError

RIGHT = {"choices": [{"message": {"role": "assistant", "content": "<best>A</best>"}, "finish_reason": "stop"}],
         "usage": {"completion_tokens": 5}}


class Handler(BaseHTTPRequestHandler):
    """Answers with server.answer(number of the request, its body): (status, headers, content)."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            number = len(server.times)
            server.times.append(time.monotonic())
            server.asked.append((self.path, body))
            server.busy += 1
            server.busiest = max(server.busy, server.busiest)
        reply = server.answer(number, body)
        with server.lock:
            server.busy -= 1
        if reply is None:  # hang up
            self.connection.close()
            return
        status, headers, content = reply
        if isinstance(content, tuple):  # of pieces, each a tenth of a second after the other
            self.send_pieces(status, headers, content)
            return
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def send_pieces(self, status, headers, pieces):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):  # nobody waits for the rest
            for piece in pieces:
                self.wfile.write(piece)
                time.sleep(0.1)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.request_queue_size = 64
    server.lock = threading.Lock()
    server.times = []
    server.asked = []
    server.busy = 0
    server.busiest = 0
    server.answer = lambda number, body: (200, {}, RIGHT)
    server.base = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(servers, "PAUSE", 0.02)
    servers.note_once.cache_clear()
    yield server
    server.shutdown()
    server.server_close()


CHAT = {"messages": [{"role": "user", "content": "x"}]}
PLAIN = {"prompt": "x"}


def ask(server, body=CHAT, tries=3, **more):
    answer, = servers.complete(server.base, [body], tries=tries, **more)
    return answer


def changed(**changes):
    """RIGHT with other contents: of the choice, or `usage`."""
    answer = json.loads(json.dumps(RIGHT))
    choice = answer["choices"][0]
    for name, value in changes.items():
        where = answer if name in answer else choice["message"] if name == "content" else choice
        where[name] = value
    return answer


def without(name):
    answer = json.loads(json.dumps(RIGHT))
    del (answer if name in answer else answer["choices"][0])[name]
    return answer


def first_then_right(status, headers, content):
    """A server whose first answer is this and whose others are right."""
    return lambda number, body: (status, headers, content) if number == 0 else (200, {}, RIGHT)


# ---------------------------------------------------------------- requests

def settings(**changes):
    return SimpleNamespace(**{"api_model": "m", "api_plain": False, "max_new_tokens": 9, "temperature": 0.5, **changes})


def test_a_chat_model_gets_the_text_as_the_user_s_message():
    body = servers.request_body(settings(), "Sort.", seed=2**31 + 7)
    assert body == {"model": "m", "max_tokens": 9, "temperature": 0.5, "seed": 7,
                    "messages": [{"role": "user", "content": "Sort."}]}


def test_a_temperature_of_0_is_asked_for_as_it_is():
    assert servers.request_body(settings(temperature=0.0), "Sort.", seed=7)["temperature"] == 0


def test_a_plain_model_gets_the_text_alone_and_goes_on_with_what_was_begun():
    body = servers.request_body(settings(api_plain=True), "Sort.", seed=7, begun="Well,")
    assert body == {"model": "m", "max_tokens": 9, "temperature": 0.5, "seed": 7, "prompt": "Sort.Well,"}


def test_a_chat_model_is_asked_to_go_on_with_its_own_turn():
    body = servers.request_body(settings(), "Sort.", seed=7, begun="Well,")
    assert body["messages"][1] == {"role": "assistant", "content": "Well,"}
    assert body["continue_final_message"] is True
    assert body["add_generation_prompt"] is False


def test_a_lone_surrogate_in_a_text_is_replaced():
    body = servers.request_body(settings(), "s = '\ud800'", seed=0)
    assert body["messages"][0]["content"] == "s = '\ufffd'"


@pytest.mark.parametrize("flags, says", [
    (dict(api_base="127.0.0.1:8000", api_model="m"), "--api-base 127.0.0.1:8000: expected an address"),
    (dict(api_base="http://[::1/v1", api_model="m"), "--api-base http://[::1/v1: expected an address"),
    (dict(api_base="http://x:port/v1", api_model="m"), "--api-base http://x:port/v1: expected an address"),
    (dict(api_base="http://", api_model="m"), "--api-base http://: expected an address"),
    (dict(api_base="http://x/v1"), "--api-base and --api-model go together"),
    (dict(api_model="m"), "--api-base and --api-model go together"),
])
def test_flags_of_a_server_are_checked(flags, says):
    with pytest.raises(UserError, match=re.escape(says)):
        servers.check_server_flags(servers.ServerFlags(**flags))


@pytest.mark.parametrize("key, header", [("k\n", "Bearer k"), (" ", None), (None, None)])
def test_a_key_is_sent_without_its_line_end_and_none_where_there_is_none(key, header, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    assert servers.http_request("http://x/v1", {}).get_header("Authorization") == header


def test_an_address_may_end_in_a_slash(server):
    answer, = servers.complete(server.base + "/", [CHAT])
    assert answer.text == "<best>A</best>"
    assert server.asked[0][0] == "/v1/chat/completions"


# ---------------------------------------------------------------- many at once

def test_answers_come_in_order_with_many_requests_in_flight(server):
    all_at_once = threading.Barrier(12)

    def answer(number, body):
        if number < 12:
            all_at_once.wait(60)  # no answer before there are twelve requests
        time.sleep(0.05 if int(body["prompt"]) % 7 == 0 else 0.01)
        return 200, {}, {"choices": [{"text": body["prompt"], "finish_reason": "stop"}],
                         "usage": {"completion_tokens": 3}}
    server.answer = answer
    answers = list(servers.complete(server.base, [{"prompt": str(k)} for k in range(60)], in_flight=12))
    assert [a.text for a in answers] == [str(k) for k in range(60)]
    assert {a.tokens for a in answers} == {3}
    assert all(a.finished and a.seconds > 0 and a.error is None for a in answers)
    assert server.busiest == 12
    assert {path for path, _ in server.asked} == {"/v1/completions"}


def wait_for_the_clients_threads():
    for thread in threading.enumerate():
        if thread.name == "request":
            thread.join(60)
            assert not thread.is_alive()


def test_a_caller_that_wants_no_more_asks_for_nothing_more(server):
    answers = servers.complete(server.base, [PLAIN] * 2000, in_flight=4)
    next(answers)
    answers.close()
    wait_for_the_clients_threads()
    assert len(server.asked) < 2000


def test_an_error_stops_the_others_that_would_have_tried_again(server, monkeypatch):
    monkeypatch.setattr(servers, "PAUSE", 30)
    server.answer = lambda number, body: (401 if body["prompt"] == "bad" else 503, {}, {"error": "sorry"})
    with pytest.raises(servers.ApiError, match="HTTP 401: sorry"):
        list(servers.complete(server.base, [{"prompt": text} for text in ("bad", "busy", "busy")], in_flight=3))
    start = time.monotonic()
    wait_for_the_clients_threads()
    assert time.monotonic() - start < 20  # they do not sit out their pauses
    assert len(server.asked) <= 3


def test_ctrl_c_does_not_wait_for_what_is_in_flight(server):
    server.answer = lambda number, body: time.sleep(30)
    program = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from data import servers
        list(servers.complete({server.base!r}, [{{"prompt": "x"}}] * 4))
    """)
    child = subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.DEVNULL,
        # where the tests run in the background, it may be ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    while len(server.asked) < 4:
        assert child.poll() is None
        time.sleep(0.01)
    start = time.monotonic()
    os.kill(child.pid, signal.SIGINT)
    child.wait(20)
    assert time.monotonic() - start < 15  # and not the 30 s of the answers


# ---------------------------------------------------------------- what passes

def test_what_passes_is_tried_again_with_growing_pauses(server):
    replies = [(429, {}, {}), (500, {}, {}), None, (503, {}, {})]
    server.answer = lambda number, body: replies[number] if number < 4 else (200, {}, RIGHT)
    assert ask(server, tries=8).text == "<best>A</best>"
    pauses = [after - before for before, after in zip(server.times, server.times[1:])]
    assert len(pauses) == 4
    for pause, least in zip(pauses, [0.015, 0.03, 0.06, 0.12]):
        assert pause >= least


@pytest.mark.parametrize("status, content", [
    (408, {"error": "slow"}),
    (520, b"<html>unknown error</html>"),
    (529, {"error": {"message": "overloaded"}}),
    (200, {"error": {"message": "provider is overloaded", "code": 502}}),
    (200, {"error": {"message": "try again", "code": "503"}}),
    (200, {"choices": [{"error": {"message": "broke off", "code": 502}, "finish_reason": "error"}]}),
    (200, changed(finish_reason="insufficient_system_resource")),
    (200, changed(finish_reason="abort")),
    (200, {**RIGHT, "choices": []}),
    (200, {**RIGHT, "choices": None}),
    (200, b"<html>starting</html>"),
    (200, json.dumps(RIGHT).encode().replace(b"best", b"be\xff")),
])
def test_what_may_pass_is_tried_again(status, content, server):
    server.answer = first_then_right(status, {}, content)
    answer = ask(server)
    assert answer.text == "<best>A</best>"
    assert answer.error is None
    assert len(server.asked) == 2


def test_an_answer_that_is_cut_off_on_its_way_is_asked_for_again(server):
    server.answer = first_then_right(200, {"Content-Length": "5000"}, b'{"choices": [')
    assert ask(server).text == "<best>A</best>"


@pytest.mark.parametrize("status", [200, 400])
def test_an_answer_may_come_packed_although_nobody_asked_for_that(status, server):
    content = json.dumps(RIGHT if status == 200 else {"error": "too long"}).encode()
    server.answer = lambda number, body: (status, {"Content-Encoding": "gzip"}, gzip.compress(content))
    answer = ask(server)
    assert answer.text == ("<best>A</best>" if status == 200 else "")
    assert status == 200 or answer.error.endswith("HTTP 400: too long")


def test_an_answer_that_is_packed_and_broken_is_asked_for_again(server):
    broken = gzip.compress(b"x" * 100)[:-9] + b"123456789"
    server.answer = first_then_right(200, {"Content-Encoding": "gzip"}, broken)
    assert ask(server).text == "<best>A</best>"


def test_a_server_that_only_keeps_the_connection_open_does_not_come_in_time(server):
    slow = (*[b" "] * 30, json.dumps(RIGHT).encode())
    length = str(sum(map(len, slow)))
    server.answer = first_then_right(200, {"Content-Length": length}, slow)
    assert ask(server, timeout=0.3).seconds < 1
    assert len(server.asked) == 2


def test_an_answer_that_does_not_come_in_time_is_asked_for_again(server):
    asked_again = threading.Event()

    def answer(number, body):
        if number > 0:
            asked_again.set()
            return 200, {}, RIGHT
        return None if asked_again.wait(20) else (200, {}, changed(content="late"))

    server.answer = answer
    assert ask(server, timeout=0.3).text == "<best>A</best>"


def test_of_several_choices_the_first_counts(server):
    choices = RIGHT["choices"] + changed(content="<best>B</best>")["choices"]
    server.answer = lambda number, body: (200, {}, {**RIGHT, "choices": choices})
    assert ask(server).text == "<best>A</best>"


@pytest.mark.parametrize("header, least", [("1", 0.99), ("0.4", 0.39), ("soon", 0), ("nan", 0)])
def test_a_server_may_say_how_long_to_wait(header, least, server):
    server.answer = first_then_right(429, {"Retry-After": header}, {})
    assert ask(server).text == "<best>A</best>"
    assert server.times[1] - server.times[0] >= least


def test_a_server_may_say_until_when_to_wait():
    in_a_minute = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert 55 < servers.seconds_until(in_a_minute) <= 60


@pytest.mark.parametrize("asked_for", ["100000", "inf"])
def test_no_pause_is_longer_than_a_minute_whatever_the_server_asks_for(asked_for):
    failure = servers.Failure("busy", 429, retry_after=asked_for)
    assert failure.pause(1) == servers.MOST_PAUSE == 60
    assert servers.Failure("busy", 429).pause(30) == 60


@pytest.mark.parametrize("status, again", [
    (408, True), (409, True), (425, True), (429, True), (500, True), (502, True), (503, True),
    (504, True), (529, True), (501, False), (505, False), (400, False), (401, False), (404, False),
])
def test_which_statuses_another_try_may_not_see_again(status, again):
    assert servers.passes(status) == again


@pytest.mark.parametrize("reason", ["aborted", "error", "cancelled", "Abort"])
def test_an_answer_that_the_server_broke_off_is_asked_for_again(reason, server):
    server.answer = first_then_right(200, {}, changed(finish_reason=reason))
    assert ask(server).finished is True
    assert len(server.asked) == 2


def test_an_answer_that_is_always_broken_off_costs_itself_alone(server):
    server.answer = lambda number, body: (200, {}, changed(finish_reason="abort"))
    assert "broken off its answer (abort)" in ask(server).error


def test_a_wait_for_another_try_is_no_time_of_the_answer(server, monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: 10.0 * len(server.asked))  # ten seconds a request
    monkeypatch.setattr(servers, "time", clock)
    server.answer = first_then_right(503, {}, {})
    assert ask(server).seconds == 10


# ---------------------------------------------------------------- what does not

@pytest.mark.parametrize("status, content, words", [
    (400, {"error": {"message": "context is 8192 tokens,\nyou asked for 10840"}}, "8192 tokens, you asked for 10840"),
    (403, {"error": {"message": "flagged by moderation"}}, "flagged by moderation"),
    (413, b"too large", "too large"),
    (422, {"detail": [{"msg": "not a number"}]}, "not a number"),
    (200, {"error": {"message": "prompt is too long", "code": 400}}, "prompt is too long"),
    (200, {"error": {"message": "prompt is too long", "type": "invalid_request_error"}}, "prompt is too long"),
    (200, {"choices": [{"error": {"message": "prompt is too long", "code": 400}}]}, "prompt is too long"),
    (400, {"error": "caf\u00e9"}, "caf\u00e9"),
    (400, b"caf\xe9", "caf\ufffd"),
    (400, b"<html>" + b"too large " * 1000, "<html>too large too large"),
])
def test_a_refused_request_is_an_answer_with_the_server_s_words_and_the_others_go_on(status, content, words, server):
    def answer(number, body):
        return (status, {}, content) if body["prompt"] == "bad" else (200, {}, RIGHT)
    server.answer = answer
    bodies = [{"prompt": text} for text in ("good", "bad", "good")]
    first, refused, last = servers.complete(server.base, bodies, in_flight=1)
    assert first.error is None
    assert last.error is None
    assert words in refused.error
    assert f"--api-base {server.base}, completions: " in refused.error
    assert "\n" not in refused.error
    assert len(refused.error) < 500
    assert refused.text == ""
    assert refused.finished is False
    assert len(server.asked) == 3  # it is not asked for again


def test_an_error_that_stays_and_does_not_say_why_costs_one_answer(server):
    server.answer = lambda number, body: (200, {}, {"error": {"message": "cannot do that"}})
    assert "cannot do that" in ask(server).error
    assert len(server.asked) == 3


@pytest.mark.parametrize("status, content, tries, says", [
    (401, {"error": "no key"}, 1, "HTTP 401: no key .*OPENAI_API_KEY"),
    (404, {"error": {"message": "no such model"}}, 1, "HTTP 404: no such model .*/v1"),
    (501, b"", 1, "HTTP 501: Not Implemented"),
    (503, {"error": {"message": "sorry"}}, 3, "HTTP 503: sorry"),
    (500, {"error": "template"}, 3, "HTTP 500: template .*--api-plain"),
    (200, {"error": {"message": "limit for today", "code": 429}}, 3, "limit for today"),
    (200, b"<html>Login</html>", 3, "not JSON: <html>Login"),
    (200, {"hello": 1}, 1, "not the protocol's: {'hello': 1}"),
    (200, [1], 1, "not the protocol's"),
])
def test_what_every_request_would_meet_ends_the_run(status, content, tries, says, server):
    server.answer = lambda number, body: (status, {}, content)
    with pytest.raises(servers.ApiError, match=f"--api-base {server.base}, chat/completions: .*{says}") as caught:
        ask(server)
    assert "\n" not in str(caught.value)
    assert len(server.asked) == tries


def test_no_server_is_an_error_in_one_line(server):
    with pytest.raises(servers.ApiError, match="--api-base http://127.0.0.1:1/v1, completions: .*refused"):
        list(servers.complete("http://127.0.0.1:1/v1", [PLAIN], tries=2))


GOES_ON = {**CHAT, "continue_final_message": True}


def test_a_server_that_does_not_go_on_with_a_turn_is_said_plainly(server):
    server.answer = lambda number, body: (422, {}, {"error": "extra fields"})
    with pytest.raises(servers.ApiError, match="HTTP 422: extra fields .*--waits needs --api-plain or a local --judge"):
        ask(server, GOES_ON)


def test_one_that_does_may_refuse_a_single_request(server):
    server.answer = lambda number, body: (200, {}, RIGHT) if number == 0 else (400, {}, {"error": "too long"})
    first, second = servers.complete(server.base, [GOES_ON, GOES_ON], in_flight=1)
    assert first.error is None
    assert "too long" in second.error


@pytest.mark.parametrize("content", [b"[" * 200_000, b"oops\nand more"])
def test_what_is_no_json_is_said_in_one_line(content, server):
    server.answer = lambda number, body: (200, {}, content)
    with pytest.raises(servers.ApiError, match="is not JSON") as caught:
        ask(server, tries=2)
    assert "\n" not in str(caught.value)
    server.answer = lambda number, body: (400, {}, content)
    assert "\n" not in ask(server).error


def test_a_code_that_is_no_status_is_none(server):
    server.answer = lambda number, body: (200, {}, {"error": {"code": "9" * 5000, "message": "odd"}})
    assert ask(server, tries=2).error.endswith("error: odd")


@pytest.mark.parametrize("status, error", [
    (451, "not here"),
    (200, {"message": "too long", "code": "context_length_exceeded"}),
])
def test_more_ways_to_refuse_a_single_request(status, error, server):
    server.answer = lambda number, body: (status, {}, {"error": error})
    assert ask(server).error
    assert len(server.asked) == 1


@pytest.mark.parametrize("reason, finished", [
    ("stop", True), ("eos", True), ("eos_token", True), ("stop_sequence", True), ("end_turn", True),
    ("complete", True), ("completed", True), ("tool_calls", True), ("function_call", True),
    ("length", False), ("max_tokens", False), ("max_output_tokens", False), ("model_length", False),
    ("content_filter", False), ("model_context_window_exceeded", False), ("incomplete", False),
])
def test_every_reason_that_is_known_is_taken_without_a_note(reason, finished, capsys):
    servers.note_once.cache_clear()
    assert servers.is_whole(reason) is finished
    assert capsys.readouterr().err == ""


def test_an_unknown_reason_counts_as_cut_off_and_none_as_whole_and_both_are_said(capsys):
    servers.note_once.cache_clear()
    assert servers.is_whole("something new") is False
    assert "not known here (something new)" in capsys.readouterr().err
    assert servers.is_whole(None) is True
    assert "does not say why an answer ended" in capsys.readouterr().err


@pytest.mark.parametrize("counted, tokens", [(0, 1), (1, 1), ("7", 7)])
def test_an_answer_has_at_least_its_end_token(counted, tokens):
    assert servers.tokens_in({"completion_tokens": counted, "total_tokens": 90}) == tokens


# ---------------------------------------------------------------- odd answers

@pytest.mark.parametrize("answer", [without("usage"), changed(usage=None), changed(usage={"total_tokens": 5}),
                                    changed(usage={"completion_tokens": None}),
                                    changed(usage={"completion_tokens": math.inf})])
def test_a_server_that_counts_no_tokens_is_taken_and_said(answer, server, capsys):
    server.answer = lambda number, body: (200, {}, answer)
    assert ask(server).tokens == 0
    assert ask(server).text == "<best>A</best>"
    assert capsys.readouterr().err.count("how many tokens") == 1


@pytest.mark.parametrize("answer, finished", [
    (RIGHT, True),
    (without("finish_reason"), True),
    (changed(finish_reason=None), True),
    (changed(finish_reason="length"), False),
    (changed(finish_reason="content_filter"), False),
    (changed(finish_reason="MAX_TOKENS"), False),
    (changed(finish_reason="model_length"), False),
    (changed(finish_reason="model_context_window_exceeded"), False),
    (changed(finish_reason={"type": "length"}), False),
    (changed(finish_reason="something new"), False),
    (changed(finish_reason="eos"), True),
    (changed(finish_reason="COMPLETE"), True),
    (changed(finish_reason="tool_calls"), True),
])
def test_an_answer_is_finished_where_the_server_says_that_the_model_ended_it(answer, finished, server):
    server.answer = lambda number, body: (200, {}, answer)
    assert ask(server).finished is finished


@pytest.mark.parametrize("content, text", [
    (None, ""),
    ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
    ([{"type": "reasoning", "text": "hm"}, {"type": "output_text", "text": "a"}], "a"),
    (["a", {"text": "b"}, {"text": None}], "ab"),
    ({"type": "text", "text": "a"}, "a"),
    ([], ""),
    ("\ud83d a", "\ud83d a"),
])
def test_a_text_may_come_in_parts(content, text, server):
    server.answer = lambda number, body: (200, {}, changed(content=content))
    assert ask(server).text == text


def test_an_answer_of_thoughts_alone_is_empty_and_said(server, capsys):
    message = {"role": "assistant", "content": None, "reasoning_content": "<best>B</best>"}
    server.answer = lambda number, body: (200, {}, changed(message=message))
    assert ask(server).text == ""
    assert "thoughts alone" in capsys.readouterr().err
