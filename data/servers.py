"""A client for OpenAI-compatible servers: vLLM, SGLang, llama.cpp, `transformers serve`, others.

    bodies = [request_body(cfg, text, seed) for text in texts]
    for answer in complete(cfg.api_base, bodies, cfg.in_flight):      in order, with many in flight
        answer.text

It needs the standard library only. What passes by itself (a busy or restarting server, a broken
connection) is tried again with growing pauses. A request that the server refuses, say because its
prompt is too long, costs its own answer; what would go wrong with every request (no such server, no
such model, a wrong key) ends the run with ApiError. The key, where a server wants one, is the
environment's OPENAI_API_KEY.
"""
import email.utils
import functools
import gzip
import http.client
import json
import os
import queue
import random
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from concurrent.futures import Future
from dataclasses import dataclass

from data.flags import flag, heading
from data.rows import UserError
from data.text import well_formed

TRIES = 8      # for each request
TIMEOUT = 600  # seconds for one try
PAUSE = 0.5    # seconds before the second try; it doubles from try to try
MOST_PAUSE = 60
# HTTP statuses that are about one request: malformed, moderated, too long. 200 where an answer that
# came with it is an error in every try.
REFUSED = (200, 400, 403, 413, 422, 451)
# After these another try may help, and after all of 500 and above but those of the second line.
TRANSIENT = (408, 409, 425, 429)
PERMANENT = (501, 505)
# Finish reasons: of an answer that is whole, of one that the server has broken off, and of one that
# was cut off. Any other counts as cut off.
WHOLE = ("stop", "eos", "eos_token", "stop_sequence", "end_turn", "complete", "completed",
         "tool_calls", "function_call")
BROKEN_OFF = ("abort", "aborted", "error", "cancelled", "insufficient_system_resource")
CUT_OFF = ("length", "max_tokens", "max_output_tokens", "model_length", "content_filter",
           "model_context_window_exceeded", "incomplete")


@dataclass
class ServerFlags:
    """The flags of every stage that can use a server."""

    heading("a model behind a server")
    api_base: str = flag(None, "an OpenAI-compatible server, as in http://127.0.0.1:8000/v1; its "
                         "key is the environment's OPENAI_API_KEY", type=str, metavar="URL")
    api_model: str = flag(None, "the model's name on that server", type=str, metavar="NAME")
    api_plain: bool = flag(False, "plain prompts to /completions: the model has no chat template")
    in_flight: int = flag(32, "requests to the server at once", least=1)


def check_server_flags(cfg):
    """To be called in __post_init__ of settings that inherit ServerFlags."""
    if bool(cfg.api_base) != bool(cfg.api_model):
        raise UserError("--api-base and --api-model go together: name both, or neither")
    if cfg.api_base and not is_address(cfg.api_base):
        raise UserError(f"--api-base {cfg.api_base}: expected an address such as "
                        "http://127.0.0.1:8000/v1")


def is_address(text):
    try:
        parts = urllib.parse.urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # no port's number, half an IPv6 address
        return False


class ApiError(UserError):
    """The server cannot be used, in one line; `status` is its HTTP status, or None if it gave none.
    """

    def __init__(self, message, status=None):
        super().__init__(message)
        self.status = status


@dataclass
class Answer:
    text: str
    tokens: int          # generated, as the server counts them; 0 where it does not
    finished: bool       # False: cut off at max_tokens
    seconds: float       # from the request that worked to its answer
    error: str = None    # why the server refused this request, in one line; then there is no text


# ---------------------------------------------------------------- requests and their answers

def request_body(cfg, text, seed, begun=""):
    """A request for one completion of `text`: a user's message, or a plain model's prompt.

    begun: what the answer already says. A plain model goes on with it; so does a chat model on vLLM
           and SGLang, where the two extra fields ask for it. Other servers refuse them (or, if they
           skip what they do not know, begin anew).
    """
    body = {
        "model": cfg.api_model,
        "max_tokens": cfg.max_new_tokens,
        "temperature": cfg.temperature,
        "seed": seed % 2**31,
    }
    text = well_formed(text)
    if cfg.api_plain:
        body["prompt"] = text + begun
        return body
    body["messages"] = [{"role": "user", "content": text}]
    if begun:
        body["messages"].append({"role": "assistant", "content": begun})
        body["continue_final_message"] = True
        body["add_generation_prompt"] = False
    return body


def complete(api_base, bodies, in_flight=32, tries=TRIES, timeout=TIMEOUT):
    """Yield an Answer for each request body, in order.

    api_base:  as in http://127.0.0.1:8000/v1
    bodies:    JSON objects; one with "messages" goes to /chat/completions, one with "prompt" to
               /completions.
    in_flight: requests at once.   tries: for each request.   timeout: seconds for one try.
    A request that is refused, or answered by an error `tries` times, has an Answer that says why.
    Raises ApiError, naming --api-base, where the server cannot be used or fails `tries` times.
    """
    answers = [Future() for _ in bodies]
    todo = queue.SimpleQueue()
    for job in zip(bodies, answers):
        todo.put(job)
    stop = threading.Event()

    def work():
        while not stop.is_set():
            try:
                body, answer = todo.get_nowait()
            except queue.Empty:
                return
            try:
                answer.set_result(ask(api_base, body, tries, timeout, stop))
            except BaseException as error:  # is raised where the answer is waited for
                answer.set_exception(error)

    # Not a ThreadPoolExecutor: Python waits for its threads at exit, so Ctrl-C would wait for all
    # that is in flight.
    for _ in range(min(in_flight, len(bodies))):
        threading.Thread(target=work, daemon=True, name="request").start()
    goes_on = False  # with an assistant's turn that was begun
    try:
        for body, future in zip(bodies, answers):
            answer = future.result()
            if "continue_final_message" in body:
                if answer.error and not goes_on:
                    raise ApiError(f"{answer.error} (if it does not go on with an assistant's "
                                   "turn, --waits needs --api-plain or a local --judge)")
                goes_on = True
            yield answer
    finally:
        stop.set()  # an error, or the caller wants no more: nothing new is asked


def ask(api_base, body, tries, timeout, stop):
    """The answer to one request, tried again while its failure may pass and `stop` is not set."""
    path = "chat/completions" if "messages" in body else "completions"
    request = http_request(f"{api_base.rstrip('/')}/{path}", body)
    for attempt in range(1, tries + 1):
        start = time.monotonic()
        try:
            return send(request, timeout, start)
        except Failure as failure:
            problem = failure
        if not problem.passing or attempt == tries:
            break
        if attempt == 2:
            print(f"note: {request.full_url}: {problem.words}; trying again, {tries} times in all",
                  file=sys.stderr)
        if stop.wait(problem.pause(attempt)):
            break
    words = f"--api-base {api_base}, {path}: {problem.words}{hint(problem.status, body)}"
    if problem.status in REFUSED:
        return Answer("", 0, False, round(time.monotonic() - start, 4), error=words)
    raise ApiError(words, problem.status)


def http_request(url, body):
    headers = {"Content-Type": "application/json"}
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if key:
        headers["Authorization"] = f"Bearer {key}"
    return urllib.request.Request(url, json.dumps(body).encode(), headers)


def hint(status, body):
    """What may be wrong where a server answers with this status."""
    if status == 401:
        return " (the key is read from the environment's OPENAI_API_KEY)"
    if status == 404:
        return " (is it the address up to and including /v1?)"
    if status == 500 and "messages" in body:
        return " (a model without a chat template wants --api-plain)"
    return ""


class Failure(Exception):
    """One try that brought no answer: the server's words, and whether another try may help."""

    def __init__(self, words, status=None, passing=True, retry_after=None):
        super().__init__(words)
        self.words = words
        self.status = status
        self.passing = passing
        self.retry_after = retry_after

    def pause(self, attempt):
        """Seconds before the next try: our own pause, or longer if the server asks for it."""
        ours = PAUSE * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
        return min(MOST_PAUSE, max(ours, seconds_until(self.retry_after)))


def seconds_until(retry_after):
    """A Retry-After header in seconds from now: "2", "1.5" or a date; 0 for anything else."""
    try:
        return float(retry_after)
    except (TypeError, ValueError):
        pass
    try:
        return email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
    except (TypeError, ValueError):
        return 0.0


def passes(status):
    return status in TRANSIENT or status >= 500 and status not in PERMANENT


def send(request, timeout, start):
    """One try. Raises Failure."""
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            content = content_of(response, start + timeout)
    except urllib.error.HTTPError as error:
        words = f"HTTP {error.code}: {words_of_error(error, timeout) or error.reason}"
        retry_after = error.headers.get("Retry-After")
        raise Failure(words, error.code, passes(error.code), retry_after) from None
    except NO_ANSWER as error:
        words = str(getattr(error, "reason", None) or error) or type(error).__name__
        raise Failure(" ".join(words.split())) from None
    return read(content, round(time.monotonic() - start, 4))


# Refused, late, cut short, or packed and broken.
NO_ANSWER = (OSError, EOFError, http.client.HTTPException, ValueError, zlib.error)


def content_of(response, deadline):
    """All bytes of a response, unpacked. Raises one of NO_ANSWER.

    deadline: on the clock `time.monotonic`. The library's own timeout is for each piece: a server
    that sends a space now and then, to keep the connection open, would never be late.
    """
    content = b""
    while piece := response.read1(1 << 16):
        content += piece
        if time.monotonic() > deadline:
            raise TimeoutError("timed out")
    if response.length:
        raise http.client.IncompleteRead(content, response.length)
    packed = response.headers.get("Content-Encoding", "").lower()
    if packed in ("gzip", "x-gzip"):  # some do so unasked
        return gzip.decompress(content)
    return content


def words_of_error(response, timeout):
    """What a person can read of an answer with an error's status; "" where it does not come."""
    try:
        return words_of(content_of(response, time.monotonic() + timeout))
    except NO_ANSWER:
        return ""


def words_of(content):
    """What a person can read of a server's answer: its error message, else how it begins."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = content.decode(errors="replace")
    # {"error": {"message": "..."}}, {"error": "..."}, {"detail": [...]}
    for name in ("error", "detail", "message"):
        if isinstance(found, dict) and found.get(name):
            found = found[name]
    return " ".join(str(found).split())[:300]


def read(content, seconds):
    """The body of an answer with status 200 as an Answer. Raises Failure where it is none."""
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):  # no JSON, not even UTF-8, or nested without end
        raise Failure(f"its answer is not JSON: {words_of(content)}") from None
    if not isinstance(answer, dict) or not ("choices" in answer or "error" in answer):
        raise Failure(f"its answer is not the protocol's: {words_of(content)}", passing=False)
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):  # it is warming up, or this is an error
        choice = {}
    error = answer.get("error") or choice.get("error")
    if error:  # some proxies send their errors with status 200
        status = status_in(error)
        words = words_of(json.dumps({"error": error}).encode())
        raise Failure(f"error: {words}", status, status == 200 or passes(status))
    return Answer(
        text=text_of(choice, content),
        tokens=tokens_in(answer.get("usage")),
        finished=is_whole(choice.get("finish_reason")),
        seconds=seconds,
    )


def is_whole(reason):
    """Does an answer with this finish reason end where the model ended it? Raises Failure."""
    if reason is None:
        note_once("note: the server does not say why an answer ended; it counts as whole")
        return True
    reason = str(reason).lower()
    if reason in BROKEN_OFF:
        raise Failure(f"it has broken off its answer ({reason})", 200)
    if reason not in (*WHOLE, *CUT_OFF):
        note_once(f"note: the server's answers end for a reason that is not known here ({reason}); "
                  "they count as cut off")
    return reason in WHOLE


def status_in(error):
    """The HTTP status that an error with status 200 stands for; 200 where it does not say."""
    if not isinstance(error, dict):
        return 200
    code = str(error.get("code"))
    if code.isdecimal() and len(code) == 3:  # others are a provider's own
        return int(code)
    about_the_request = ("invalid_request", "context_length")
    kind = f"{code} {error.get('type')}"
    return 400 if any(word in kind for word in about_the_request) else 200


def text_of(choice, content):
    """What the model wrote, without its thoughts."""
    message = choice.get("message")
    if not isinstance(message, dict):
        if "text" not in choice:
            raise Failure(f"its answer has no text: {words_of(content)}", 200)
        return joined(choice["text"])
    text = joined(message.get("content"))
    if not text and (message.get("reasoning_content") or message.get("reasoning")):
        note_once("note: the server sends an answer that is thoughts alone; it counts as empty")
    return text


def joined(text):
    """A text, which some servers send in parts: [{"type": "text", "text": "..."}, ...]."""
    if isinstance(text, dict):
        text = [text]
    if not isinstance(text, list):
        return str(text or "")
    parts = [part if isinstance(part, dict) else {"text": part} for part in text]
    return "".join(str(part.get("text") or "") for part in parts
                   if part.get("type") not in ("thinking", "reasoning"))


def tokens_in(usage):
    """Generated tokens, or 0 with a note where the server does not count them."""
    try:
        return max(int(usage["completion_tokens"]), 1)
    except (KeyError, TypeError, ValueError, OverflowError):  # the last of Infinity
        note_once("note: the server does not say how many tokens it generated; they count as 0")
        return 0


@functools.cache
def note_once(note):
    print(note, file=sys.stderr)
