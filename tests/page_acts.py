"""What people do on the page, in the words of tests."""

from playwright.sync_api import Page


def talk(page: Page, text: str) -> None:
    """Says something, and waits for the end of the response."""
    before = page.locator("article").count()
    page.get_by_label("Your turn", exact=True).fill(text)
    page.keyboard.press("Enter")
    page.wait_for_function(
        "before => document.querySelectorAll('article').length >= before + 2"
        " && !document.querySelector('#send').hidden",
        arg=before,
    )


def shown(page: Page) -> list[str]:
    """The turns that are shown."""
    return page.locator("#talk article .text").all_text_contents()
