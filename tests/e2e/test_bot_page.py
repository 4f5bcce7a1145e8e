"""An exported page in a browser: it responds as Python does, keeps the conversation, and loads nothing."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from page_acts import wait_for
from playwright.sync_api import Browser, Page, expect
from scripted import enliven
from transformers import LlamaConfig, LlamaForCausalLM

from convmodel import Conversation, ConversationModel, ConversationTokenizer
from convmodel.export.html_page import make_page
from convmodel.hf_model.quantization import quantize_weights

pytestmark = pytest.mark.slow

EVIL = '<img src=x onerror="window.evil=1"><script>window.evil=1</script>{{facts}}"\'</title>'
WAIT = 60_000  # ms; the machine may be busy with other tests

Open = Callable[..., AbstractContextManager[Page]]


@pytest.fixture(scope="module")
def file(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the built-in model; asks for the browser first, which may be missing."""
    model = ConversationModel.from_pretrained("builtin:chitchat", device="cpu")
    path = tmp_path_factory.mktemp("page") / "chitchat.html"
    path.write_text(make_page(model.hf_model, model.tokenizer, title="Chitchat"), encoding="utf-8")
    return path


@pytest.fixture
def open_page(browser: Browser, file: Path) -> Open:
    """Opens a page in a browser without a past; the test fails if it loads anything or a script of it fails."""

    @contextmanager
    def opened(path: Path = file, script: str = "", is_checked: bool = True, **options: Any) -> Iterator[Page]:
        context = browser.new_context(viewport={"width": 1200, "height": 800}, **options)
        page, problems = context.new_page(), []
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.append(request.url) if request.url != path.as_uri() else None)
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        if script:
            page.add_init_script(script)
        page.goto(path.as_uri())
        is_ready(page)
        yield page
        context.close()
        assert not problems or not is_checked

    return opened


def is_ready(page: Page) -> None:
    expect(page.locator("#send")).to_be_enabled(timeout=WAIT)


def send(page: Page, text: str) -> None:
    page.get_by_label("Your turn", exact=True).fill(text)
    page.keyboard.press("Enter")


def talk(page: Page, text: str) -> None:
    """Sends a text, and waits for the end of the response."""
    send(page, text)
    expect(page.locator("#send")).to_be_visible(timeout=WAIT)


def choose_greedily(page: Page) -> None:
    page.get_by_text("Settings").click()
    page.get_by_label("Temperature").fill("0")
    page.keyboard.press("Escape")


def shown(page: Page) -> list[str]:
    return page.locator("article .text").all_text_contents()


def stored(page: Page) -> dict[str, Any]:
    [text] = page.evaluate("Object.values({ ...localStorage })")
    result: dict[str, Any] = json.loads(text)
    return result


def with_changes(file: Path, folder: Path, pattern: str, text: str) -> Path:
    """Returns a copy of the page whose data, which the policy does not cover, are changed in one place."""
    changed, count = re.subn(pattern, text, file.read_text(encoding="utf-8"))
    assert count == 1
    (folder / "changed.html").write_text(changed, encoding="utf-8")
    return folder / "changed.html"


def greedy_conversation(model: ConversationModel, texts: list[str]) -> tuple[list[str], list[int]]:
    """The turns of a conversation in which the user's are given, and how many tokens each response has."""
    turns, speakers, counts = [], [], []
    for text in texts:
        turns.append(text)
        speakers.append("user")
        output = model.generate(Conversation(turns, speakers), reply_as="assistant", do_sample=False, min_new_tokens=1)
        if output.responses[0].strip():
            turns.append(output.responses[0])
            speakers.append("assistant")
            counts.append(output.response_tokens[0])
    return turns, counts


def check_conversations(page: Page, number: int) -> None:
    """Conversations with the user's turns from the sample are the same, token by token, as with the int8 model."""
    model = ConversationModel.from_pretrained("builtin:chitchat", device="cpu", quantize="int8")
    lines = (files("convmodel") / "assets/sample/test.jsonl").read_text(encoding="utf-8").splitlines()
    choose_greedily(page)
    for line in lines[:number]:
        texts = [turn.strip() for turn in json.loads(line)["turns"][:5]]
        page.get_by_role("button", name="New conversation").click()
        for text in texts:
            talk(page, text)
        turns, counts = greedy_conversation(model, texts)
        assert shown(page) == turns
        assert [turn["tokens"] for turn in stored(page)["turns"] if turn["role"] == "assistant"] == counts


def test_responses_are_those_of_the_int8_model(open_page: Open) -> None:
    with open_page() as page:
        check_conversations(page, 2)


@pytest.mark.long
@pytest.mark.timeout(400)
def test_twenty_conversations_are_those_of_the_int8_model(open_page: Open) -> None:
    with open_page() as page:
        check_conversations(page, 20)


def test_a_llama_responds_as_its_int8_model(open_page: Open, gpt2_folder: Path, tmp_path: Path) -> None:
    tokenizer = ConversationTokenizer.from_pretrained(gpt2_folder, use_token_types=False)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "max_position_embeddings": 128}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        hf_model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes | heads))
    model = ConversationModel(enliven(hf_model), tokenizer)
    path = tmp_path / "llama.html"
    path.write_text(make_page(model.hf_model, tokenizer, title="Llama"), encoding="utf-8")
    quantize_weights(model.hf_model, "int8")
    with open_page(path) as page:
        expect(page.get_by_role("alert")).to_be_empty()
        choose_greedily(page)
        talk(page, "Hello! How are you?")
        turns, counts = greedy_conversation(model, ["Hello! How are you?"])
        assert shown(page) == turns
        assert [turn["tokens"] for turn in stored(page)["turns"][1:]] == counts


def test_the_policy_lets_nothing_in_or_out(open_page: Open) -> None:
    with open_page(is_checked=False) as page:  # since the browser reports what it refuses
        assert page.evaluate("fetch('data:text/plain,a').then(() => 'loaded', () => 'refused')") == "refused"
        page.evaluate("""() => {
            const script = document.createElement("script");
            script.textContent = "window.evil = 1";
            document.body.append(script);
            document.body.insertAdjacentHTML("beforeend", "<b onclick='window.evil=1' id='b'>b</b>");
            document.getElementById("b").click();
        }""")
        assert page.evaluate("window.evil") is None


def test_texts_are_text(open_page: Open, tmp_path: Path) -> None:
    model = ConversationModel.from_pretrained("builtin:chitchat", device="cpu")
    path = tmp_path / "evil.html"
    path.write_text(make_page(model.hf_model, model.tokenizer, title=EVIL), encoding="utf-8")
    with open_page(path) as page:
        assert page.title() == EVIL
        expect(page.get_by_role("heading", level=1)).to_have_text(EVIL)
        talk(page, EVIL)
        page.reload()
        is_ready(page)
        assert shown(page)[0] == EVIL
        assert page.evaluate("window.evil") is None
        assert page.locator("main img, main script").count() == 0


STOP_AT_A_WORD = """() => {
    const isThere = () => /^(?!Reading).*\\w/.test(document.querySelector("article.theirs .text")?.textContent ?? "");
    const watch = new MutationObserver(() => {
        if (isThere()) { watch.disconnect(); document.getElementById("stop").click(); }
    });
    watch.observe(document.getElementById("turns"), { subtree: true, childList: true, characterData: true });
}"""
"""Presses Stop in time, also on a busy machine, where the response would have ended before a test could."""

ESCAPE_AT_ONCE = """() => {
    const stop = document.getElementById("stop");
    const watch = new MutationObserver(() => {
        if (stop.hidden) return;
        watch.disconnect();
        document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
    });
    watch.observe(stop, { attributes: true });
}"""
"""Presses Escape as soon as Stop is shown, for the same reason."""


def test_a_response_can_be_stopped_replaced_and_copied(open_page: Open) -> None:
    with open_page(permissions=["clipboard-read", "clipboard-write"]) as page:
        page.evaluate(STOP_AT_A_WORD)
        send(page, "Tell me everything about your day, please!")
        expect(page.locator("article.theirs .tools")).to_contain_text("stopped", timeout=WAIT)
        partial = shown(page)
        assert [turn["text"] for turn in stored(page)["turns"]] == partial
        page.get_by_role("button", name="Regenerate").click()
        expect(page.locator("article.theirs .tools")).to_be_visible(timeout=WAIT)
        expect(page.locator("article.theirs .tools")).not_to_contain_text("stopped")
        assert len(shown(page)) == 2
        page.locator("article.theirs").get_by_role("button", name="Copy").click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()") == shown(page)[1]
        expect(page.locator("#spoken")).to_contain_text(shown(page)[1])


def test_the_page_is_used_with_keys(open_page: Open) -> None:
    with open_page() as page:
        page.keyboard.type("Hello")  # the draft has the focus
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("there")
        page.evaluate(ESCAPE_AT_ONCE)
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Get a response")).to_be_visible(timeout=WAIT)
        assert shown(page) == ["Hello\nthere"]
        page.get_by_role("button", name="Get a response").click()
        expect(page.get_by_role("button", name="Regenerate")).to_be_visible(timeout=WAIT)
        page.keyboard.press("Alt+KeyR")
        expect(page.get_by_role("button", name="Regenerate")).to_be_visible(timeout=WAIT)
        page.get_by_role("button", name="Regenerate").focus()
        page.keyboard.press("Enter")  # the button is gone then
        expect(page.get_by_role("button", name="Regenerate")).to_be_visible(timeout=WAIT)
        expect(page.locator("#draft")).to_be_focused()
        page.keyboard.press("Alt+KeyN")
        assert shown(page) == []


def test_the_conversation_stays_in_this_browser(open_page: Open) -> None:
    with open_page() as page:
        choose_greedily(page)
        talk(page, "Hello! How are you?")
        turns = shown(page)
        page.get_by_label("Your turn", exact=True).fill("A draft")
        page.reload()
        is_ready(page)
        assert shown(page) == turns
        expect(page.get_by_label("Your turn", exact=True)).to_have_value("A draft")
        expect(page.locator("#temperature-value")).to_have_text("0")
        page.get_by_role("button", name="New conversation").click()
        assert shown(page) == []
        page.get_by_role("button", name="Undo").click()
        assert shown(page) == turns


def test_without_storage_the_conversation_lasts_as_long_as_the_page(open_page: Open) -> None:
    refusal = "Object.defineProperty(window, 'localStorage', { get() { throw new Error('refused'); } });"
    with open_page(script=refusal) as page:
        talk(page, "Hello")
        assert shown(page)[0] == "Hello"
        page.reload()
        is_ready(page)
        assert shown(page) == []


def test_damaged_storage_is_ignored(open_page: Open, file: Path) -> None:
    name = json.loads(re.search(r'"id":("\w+")', file.read_text(encoding="utf-8"))[1])  # type: ignore[index]
    with open_page(script=f"localStorage.setItem('convmodel.page.{name}', '[{{')") as page:
        assert shown(page) == []


def test_a_text_that_is_too_long_stays_in_the_draft(open_page: Open) -> None:
    with open_page() as page:
        send(page, "word " * 600)
        expect(page.locator("#notice")).to_contain_text("too long for the model")
        assert shown(page) == []
        assert page.get_by_label("Your turn", exact=True).input_value().startswith("word word")


def test_oldest_turns_that_no_longer_fit_are_left_out(open_page: Open, file: Path, tmp_path: Path) -> None:
    with open_page(with_changes(file, tmp_path, r'"budget":\d+,"spare"', '"budget":40,"spare"')) as page:
        talk(page, "word " * 20)
        talk(page, "more " * 30)
        note = re.compile(r"the (oldest turn no longer fits|[2-4] oldest turns no longer fit)")
        expect(page.locator("article.theirs").last).to_contain_text(note)


def test_a_failed_self_check_is_shown(open_page: Open, file: Path, tmp_path: Path) -> None:
    with open_page(with_changes(file, tmp_path, r'"tokens":\[\d+,', '"tokens":[1,')) as page:
        expect(page.get_by_role("alert")).to_contain_text("The self-check failed")
    with open_page() as page:
        expect(page.get_by_role("alert")).to_be_empty()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_light_and_dark(open_page: Open, scheme: str) -> None:
    with open_page(color_scheme=scheme) as page:
        page.set_viewport_size({"width": 360, "height": 700})
        talk(page, "unbreakable" * 30)
        page.get_by_text("Settings").click()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert page.locator(".card").bounding_box()["x"] >= 0  # type: ignore[index]
        brightness = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
        assert (int(brightness) > 128) == (scheme == "light")


def test_tabs_of_one_page_lose_no_turn(open_page: Open, file: Path) -> None:
    with open_page() as first:
        choose_greedily(first)
        second = first.context.new_page()
        second.goto(file.as_uri())
        is_ready(second)
        talk(second, "Hello! How are you?")
        turns = shown(second)
        expect(first.locator("article .text")).to_have_text(turns)
        first.get_by_label("Your turn", exact=True).fill("A draft")
        first.goto("about:blank")
        second.reload()
        is_ready(second)
        assert shown(second) == turns


HELD = """
let held = [], isHeld = true;
const Real = MessageChannel;
window.MessageChannel = class extends Real {
  constructor() {
    super();
    const post = this.port2.postMessage.bind(this.port2);
    const isLoaded = () => !document.getElementById("weights"); // then the self-check begins
    this.port2.postMessage = (message) => (isHeld && isLoaded() ? held.push(() => post(message)) : post(message));
  }
};
window.isHolding = () => held.length > 0;
window.release = () => { isHeld = false; held.splice(0).forEach((post) => post()); };
"""


def test_a_turn_that_is_sent_too_early_stays_in_the_draft(browser: Browser, file: Path) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.add_init_script(HELD)
    page.goto(file.as_uri())
    wait_for(page, lambda: page.evaluate("window.isHolding()"))
    send(page, "Hello")
    expect(page.get_by_label("Your turn", exact=True)).to_have_value("Hello")
    page.evaluate("window.release()")
    is_ready(page)
    page.keyboard.press("Enter")
    expect(page.locator("article .text").first).to_have_text("Hello")
    context.close()
