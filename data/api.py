"""A client for OpenAI-compatible servers (vLLM, SGLang, llama.cpp, `transformers serve`, the hosted ones), standard library only.

Many requests are in flight at once, answers come in the order of the requests, and what passes by itself (a busy or restarting
server, a broken connection) is tried again with growing pauses. The key, where a server wants one, is the environment's
OPENAI_API_KEY.
"""
import http.client
import json
import os
import queue
import random
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass

from data.rows import UserError

PASSING = (408, 409, 425, 429, 500, 502, 503, 504)  # HTTP statuses that another try may not see again
PAUSE = 0.5  # seconds before the second try; it doubles from try to try


class ApiError(UserError):
    """A request that the server refused for good, in one line; `status` is its HTTP status, or None if it gave none."""

    def __init__(self, message, status=None):
        super().__init__(message)
        self.status = status


@dataclass
class Answer:
    text: str
    tokens: int          # generated, as the server counts them
    finished: bool       # False: cut off at max_tokens
    seconds: float       # from the request that worked to its answer


def add_flags(parser):
    """The flags of every stage that can use a server."""
    parser.add_argument("--api-base", metavar="URL", help="an OpenAI-compatible server, as in http://127.0.0.1:8000/v1; its key is "
                        "the environment's OPENAI_API_KEY")
    parser.add_argument("--api-model", metavar="NAME", help="the model's name on that server")
    parser.add_argument("--api-plain", action="store_true", help="plain prompts to /completions, for a model without a chat template")
    parser.add_argument("--in-flight", type=int, default=32, help="requests to the server at once (default 32)")


def check_flags(parser, args):
    if bool(args.api_base) != bool(args.api_model):
        parser.error("--api-base and --api-model go together: name both, or neither")
    if args.api_base and not args.api_base.startswith(("http://", "https://")):
        parser.error(f"--api-base {args.api_base}: expected an address such as http://127.0.0.1:8000/v1")
    if args.api_base and args.in_flight < 1:
        parser.error(f"--in-flight {args.in_flight}: must be at least 1")


def body(args, text, seed, protocol="", begun=""):
    """A request for one completion: a chat model gets `protocol` and `text` as the user's message, a plain one gets the text alone.

    begun: what the answer already says. A plain model goes on with it; so does a chat model on vLLM and SGLang, where the two
    extra fields ask for it. Other servers refuse them (or, if they skip what they do not know, begin anew).
    """
    fields = {"model": args.api_model, "max_tokens": args.max_new_tokens, "temperature": args.temperature, "seed": seed % 2**31}
    if args.api_plain:
        return {**fields, "prompt": text + begun}
    user, assistant = {"role": "user", "content": protocol + text}, {"role": "assistant", "content": begun}
    if begun:
        return {**fields, "messages": [user, assistant], "continue_final_message": True, "add_generation_prompt": False}
    return {**fields, "messages": [user]}


def complete(api_base, bodies, in_flight=32, tries=8, timeout=600):
    """Yield an Answer for each request body, in order.

    api_base:  as in http://127.0.0.1:8000/v1
    bodies:    JSON objects of the protocol. One with "messages" goes to /chat/completions, one with "prompt" to /completions.
    in_flight: requests at once.   tries: for each request.   timeout: seconds for one try.
    Raises ApiError, naming --api-base, for a request that is refused or fails `tries` times.
    """
    todo, done, early, stop = queue.SimpleQueue(), queue.SimpleQueue(), {}, threading.Event()
    for item in enumerate(bodies):
        todo.put(item)

    def work():
        while not stop.is_set():
            try:
                k, body = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((k, ask(api_base, body, tries, timeout, stop)))
            except BaseException as error:  # a thread's error is raised where its answer is waited for
                done.put((k, error))

    for _ in range(min(in_flight, len(bodies))):
        threading.Thread(target=work, daemon=True).start()  # daemons: Ctrl-C does not wait for what is in flight
    try:
        for k in range(len(bodies)):
            while k not in early:
                index, answer = done.get()
                early[index] = answer
            if isinstance(early[k], BaseException):
                raise early[k]
            yield early.pop(k)
    finally:
        stop.set()  # an error, or the caller wants no more: nothing new is asked


def ask(api_base, body, tries, timeout, stop):
    """One request, tried again while what goes wrong may pass, unless `stop` is set meanwhile."""
    path = "/chat/completions" if "messages" in body else "/completions"
    headers = {"Content-Type": "application/json"}
    if os.environ.get("OPENAI_API_KEY"):
        headers["Authorization"] = f"Bearer {os.environ['OPENAI_API_KEY']}"
    request = urllib.request.Request(api_base.rstrip("/") + path, json.dumps(body).encode(), headers)
    for attempt in range(1, tries + 1):
        start, pause = time.monotonic(), min(60, PAUSE * 2 ** (attempt - 1)) * random.uniform(0.75, 1.25)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return read(json.load(response), time.monotonic() - start)
        except urllib.error.HTTPError as error:
            problem, status = f"HTTP {error.code}: {said(error)}", error.code
            if status not in PASSING:
                break
            after = error.headers.get("Retry-After", "")
            pause = max(pause, min(60, float(after))) if after.isdigit() else pause
        except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:  # refused, reset, timed out, cut short
            problem, status = f"{getattr(error, 'reason', None) or error or type(error).__name__}", None
        except (KeyError, IndexError, TypeError) as error:
            problem, status = f"its answer is not the protocol's ({type(error).__name__}: {error})", 200
            break
        if attempt < tries:
            if attempt == 2:
                print(f"note: {api_base}{path}: {problem}; trying again, {tries} times in all", file=sys.stderr)
            if stop.wait(pause):
                break
    where = f"--api-base {api_base}, {path.strip('/')}"
    hint = {401: " (the key is read from the environment's OPENAI_API_KEY)", 404: " (is it the address up to and including /v1?)",
            500: " (a model without a chat template wants --api-plain)" if "messages" in body else ""}
    if "continue_final_message" in body and status in (400, 422):
        hint[status] = " (it does not go on with an assistant's turn, so --waits needs --api-plain or a local --judge)"
    raise ApiError(f"{where}: {problem}{hint.get(status, '')}", status)


def read(answer, seconds):
    """The server's JSON as an Answer. Raises KeyError, IndexError or TypeError where it is not the protocol's."""
    choice = answer["choices"][0]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    return Answer(text or "", max(int(answer["usage"]["completion_tokens"]), 1), choice["finish_reason"] != "length", round(seconds, 4))


def said(error):
    """The one line of an error's body that a person can read."""
    try:
        body = error.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return error.reason
    try:
        found = json.loads(body)
        found = found.get("error", found.get("detail", found))
        body = found.get("message", found) if isinstance(found, dict) else found
    except (json.JSONDecodeError, AttributeError):
        pass
    return " ".join(str(body or error.reason).split())[:300]
