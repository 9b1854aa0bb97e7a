import re
from html.parser import HTMLParser

from tests.support.evaluation import MODEL_NAMES

VOID_TAGS = ("img", "input", "meta", "wbr")


def test_page_is_complete_well_formed_and_loads_nothing(report):
    text = (report / "index.html").read_text()
    open_tags = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag not in VOID_TAGS:
                open_tags.append(tag)
            for name, value in attributes:
                assert not (name in ("src", "href", "xlink:href") and not value.startswith(("data:", "#")))

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Checker().feed(text)
    assert open_tags == []
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "At a glance",
        "Checkpoints",
        "Classification",
        "Robustness: ImageNet-C",
        "Retrieval",
        "Attention alignment",
    ]
    assert all(name in text for name in (*MODEL_NAMES, "other"))
