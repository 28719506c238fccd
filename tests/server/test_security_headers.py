"""Security headers of answers."""

from __future__ import annotations

from facespace.server.security_headers import CONTENT_SECURITY_POLICY, security_headers


def test_the_page_loads_nothing_from_elsewhere():
    rules = dict(rule.split(" ", 1) for rule in CONTENT_SECURITY_POLICY.split("; "))
    assert rules["default-src"] == "'self'"
    assert rules["object-src"] == rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "*" not in CONTENT_SECURITY_POLICY
    assert dict(security_headers("/"))[b"content-security-policy"] == CONTENT_SECURITY_POLICY.encode()


def test_headers_that_are_given_are_kept():
    names = [name for name, _ in security_headers("/page/style.css", [(b"Cache-Control", b"max-age=60")])]
    assert b"cache-control" not in names
    assert b"x-content-type-options" in names


def test_answers_of_the_api_load_nothing():
    assert dict(security_headers("/v1/people"))[b"content-security-policy"].startswith(b"default-src 'none'")
