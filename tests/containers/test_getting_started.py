"""The block of docs/getting-started.md that needs Docker, against the project that its first line starts."""

import shlex

from tests.support.pages import block


async def test_the_containers_do_what_the_page_says(compose):
    start, *then = block("docs/getting-started.md", "needs docker").splitlines()
    assert start == "docker compose up --build --wait"  # the fixture's, under names of its own
    assert then
    for line in then:
        program, compose_word, verb, *arguments = shlex.split(line)
        assert (program, compose_word, verb) == ("docker", "compose", "exec")
        printed = await compose("exec", "-T", *arguments)  # a test has no terminal
        assert "nothing failed" in printed or "all fine" in printed
