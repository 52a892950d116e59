"""Adapts data/api.py to the interface of its successor; replaced by it."""
from dataclasses import dataclass

from data import api
from data.api import Answer, ApiError, complete  # noqa: F401
from data.flags import flag, heading
from data.rows import UserError


@dataclass
class ServerFlags:
    heading("server")
    api_base: str = flag(None, "an OpenAI-compatible server, as in http://127.0.0.1:8000/v1", type=str, metavar="URL")
    api_model: str = flag(None, "the model's name on that server", type=str, metavar="NAME")
    api_plain: bool = flag(False, "plain prompts to /completions, for a model without a chat template")
    in_flight: int = flag(32, "requests to the server at once", least=1)


def check_server_flags(cfg):
    if bool(cfg.api_base) != bool(cfg.api_model):
        raise UserError("--api-base and --api-model go together: name both, or neither")
    if cfg.api_base and not cfg.api_base.startswith(("http://", "https://")):
        raise UserError(f"--api-base {cfg.api_base}: expected an address such as http://127.0.0.1:8000/v1")


def request_body(cfg, text, seed, begun=""):
    return api.body(cfg, text, seed, "", begun)
