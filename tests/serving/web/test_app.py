"""The app behind /anime: requests to the function, pages, and errors."""

import http.client
import io
import json
import re
import threading
import time
from html import unescape
from typing import Any

import pytest
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.serving import make_server

from serving.web.app import create_app, plural
from serving.web.request_limits import Limit
from serving.web.upload import SAMPLES

JSON = {"Accept": "application/json"}


def poster() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 60), (200, 40, 90)).save(buffer, "JPEG")
    return buffer.getvalue()


def form(name: str = "p.jpg") -> bytes:
    """A form with a poster in the format of a browser."""
    head = f'Content-Disposition: form-data; name="poster"; filename="{name}"\r\nContent-Type: image/jpeg'
    return f"--x\r\n{head}\r\n\r\n".encode() + poster() + b"\r\n--x--\r\n"


def upload(client: FlaskClient, name: str = "p.jpg", **options: Any) -> Any:
    """Post a form."""
    return client.post("/anime", data=form(name), content_type="multipart/form-data; boundary=x", **options)


@pytest.fixture
def client(function: Any) -> FlaskClient:
    return create_app(function.url).test_client()


def error_of(response: Any) -> tuple[int, str, str]:
    return response.status_code, response.json["error"]["code"], response.json["error"]["message"]


# --- the page


def test_root_redirects_to_the_page_with_the_form_and_what_is_logged(client: FlaskClient) -> None:
    response = client.get("/", follow_redirects=True)
    assert response.request.path == "/anime"
    assert 'method="post" enctype="multipart/form-data"' in response.text
    assert "logs the size and brightness of each poster" in response.text


@pytest.mark.parametrize("address", ["/health", "/healthz"])
def test_health_needs_no_function(address: str) -> None:
    assert create_app().test_client().get(address).json == {"status": "ok"}


@pytest.mark.parametrize(
    ("site", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", 200), (None, 200)]
)
def test_posters_from_pages_of_other_sites_are_refused(client: FlaskClient, site: str | None, status: int) -> None:
    # The browser's words for this page's own form, without a script, are "same-origin" with the Origin "null".
    headers = {"Sec-Fetch-Site": site, "Origin": "null"} if site else {}
    assert upload(client, headers=headers).status_code == status


def test_page_answers_at_trusted_hosts_only(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUSTED_HOSTS", "127.0.0.1, localhost,")
    client = create_app(function.url).test_client()
    hosts = ["localhost", "127.0.0.1:8000", "evil.example:8000"]
    assert [client.get("/anime", headers={"Host": host}).status_code for host in hosts] == [200, 200, 403]


@pytest.mark.parametrize("address", ["/anime", "/anime/model", "an upload"])
def test_page_uses_the_nouns_of_its_settings(address: str, function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TITLE_NOUN", "film")
    monkeypatch.setenv("LABEL_NOUN", "category")
    client = create_app(function.url).test_client()
    response = upload(client) if address == "an upload" else client.get(address)
    text = re.sub(
        r"<[^>]*>", " ", response.text.partition("Model card")[0]
    )  # without the card, which is the model's text
    assert "categories" in text and not re.search(r"\b(?:genres?|anime)\b", text, re.IGNORECASE)
    if address == "/anime":
        assert "Choose a film poster to see its predicted categories." in text


@pytest.mark.parametrize(
    "noun, expected", [("genre", "genres"), ("category", "categories"), ("class", "classes"), ("key", "keys")]
)
def test_plural_follows_english_rules(noun: str, expected: str) -> None:
    assert plural(noun) == expected


@pytest.mark.parametrize("address", ["/anime", "/anime/model", "an upload", "a heat map"])
def test_page_loads_nothing_from_elsewhere_and_has_no_inline_code(address: str, client: FlaskClient) -> None:
    if address == "an upload":
        response = upload(client)
    elif address == "a heat map":
        response = client.post("/anime", data={"sample": "nakusa", "explain": "24"})
    else:
        response = client.get(address)
    assert response.headers["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    assert not re.search(r'(?:src|href|action)="(?:https?:)?//', response.text)
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", response.text)
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "private, no-cache"


def test_files_of_the_page_exist(client: FlaskClient) -> None:
    files = re.findall(r'(?:src|href)="(/static/[^"]+)"', client.get("/anime").text + client.get("/anime/model").text)
    assert len(set(files)) == 4 + len(SAMPLES)
    for file in files:
        with client.get(file) as response:
            assert response.status_code == 200
            modules = re.findall(r'from "./([^"]+)"', response.text) if file.endswith(".js") else []
        for module in modules:
            with client.get(f"/static/{module}") as response:
                assert response.status_code == 200


# --- posters


def test_genres_are_bars_with_words_thresholds_and_the_model(client: FlaskClient) -> None:
    text = upload(client, name="<b>.jpg").text
    genres = re.findall(r'<li class="genre (\w+)">\s*<span class="name">([^<]+)</span>', text)
    assert genres == [
        ("above", "Action"),
        ("above", "Sci-Fi"),
        ("near", "Adventure"),
        ("below", "Slice of Life"),
    ]
    assert 'aria-label="83 percent, above the threshold of 40 percent"' in text
    assert re.search(r'class="fill" width="83.0%".*\n.*class="threshold" x="40.0%"', text)
    assert "<h2>Action, Sci-Fi</h2>" in text
    assert "above its threshold of 45 %" in text and "below its threshold of 36 %" in text
    assert re.search(r"1 more genre, far below its threshold\s*</summary>", text)
    assert "version 3" in text and "9f86d081884c<" in text
    assert '<time datetime="2026-11-23">23 November 2026</time>' in text
    assert "Prediction for &lt;b&gt;.jpg" in text


def test_genres_above_their_thresholds_come_first_and_the_heading_names_three(
    client: FlaskClient, function: Any
) -> None:
    names = ["Action", "Comedy", "Drama", "Fantasy", "Horror", "Mecha"]
    pairs = [(0.5, 0.2), (0.18, 0.28), (0.17, 0.15), (0.4, 0.3), (0.396, 0.404), (0.9, 0.1)]
    function.body = {
        **function.body,
        "genres": [
            {"id": None, "name": name, "probability": p, "threshold": t, "predicted": p >= t}
            for name, (p, t) in zip(names, pairs, strict=True)
        ],
    }
    text = upload(client).text
    assert "<h2>Mecha, Action, Fantasy and 1 more</h2>" in text
    rows = re.findall(r'class="name">([^<]+)<.*?class="percent">([^<]+)<.*?class="word">([^<]+)<', text, re.DOTALL)
    assert rows == [
        ("Mecha", "90", "above its threshold of 10 %"),
        ("Action", "50", "above its threshold of 20 %"),
        ("Fantasy", "40", "above its threshold of 30 %"),
        ("Drama", "17", "above its threshold of 15 %"),
        ("Horror", "39.6", "below its threshold of 40.4 %"),
        ("Comedy", "18", "below its threshold of 28 %"),
    ]


def test_page_says_that_no_genre_reaches_its_threshold(client: FlaskClient, function: Any) -> None:
    function.body = {
        "genres": [{"id": None, "name": "Drama", "probability": 0.01, "threshold": 0.5, "predicted": False}],
        "model": {"version": None, "sha256": "0" * 64, "dataset_date": None},
    }
    text = upload(client).text
    assert "No genre stands out" in text
    assert "of unknown version" in text
    assert "<details open>" in text
    assert "catalogue of" not in text


def test_json_is_the_functions_response(client: FlaskClient, function: Any) -> None:
    response = upload(client, headers=JSON)
    assert response.json == {name: function.body[name] for name in ("genres", "model")}
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("accept", "is_json"),
    [
        ("application/json, text/plain, */*", True),  # axios
        ("application/json", True),
        ("*/*", False),
        ("application/json, text/html", False),
        ("application/json;q=0.5, */*", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", False),
        ("image/png", False),
    ],
)
def test_json_is_sent_to_who_names_it_and_not_html(accept: str, is_json: bool, client: FlaskClient) -> None:
    assert upload(client, headers={"Accept": accept}).is_json == is_json


def test_genres_are_sorted_by_probability(client: FlaskClient, function: Any) -> None:
    function.body = {**function.body, "genres": function.body["genres"][::-1]}
    names = [genre["name"] for genre in upload(client, headers=JSON).json["genres"]]
    assert names == ["Action", "Sci-Fi", "Adventure", "Slice of Life"]


def test_samples_are_offered_only_for_a_model_of_drawn_posters(function: Any) -> None:
    model = {name: value for name, value in function.model["model"].items() if name != "collection"}
    for collection, offered in (
        ({"collection": "built-in"}, True),
        ({"collection": "myanimelist"}, False),
        ({}, False),
    ):
        function.model = {**function.model, "model": model | collection}
        function.body = {**function.body, "model": model | collection}
        client = create_app(function.url).test_client()
        assert ("Try a sample" in client.get("/anime").text) == offered
        assert ("Try a sample" in upload(client).text) == offered


def test_page_without_a_model_says_how_to_train_one(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.web.live_model.ERROR_SECONDS", 0)
    model, function.model_status, function.model = function.model, 404, b"Not Found"
    function.status, function.body = 404, b"Not Found"
    client = create_app(function.url).test_client()
    for text in (client.get("/anime").text, client.get("/anime/model").text, upload(client).text):
        assert "No model has been trained yet. The command “anime-genre retrain” trains and deploys one." in text
    function.model_status, function.model = 200, model
    assert "No model has been trained yet" not in client.get("/anime").text


# --- limits


def test_requests_are_limited_per_address_and_in_all(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.web.request_limits.PER_ADDRESS", Limit(in_progress=1, per_minute=2))
    monkeypatch.setattr("serving.web.request_limits.IN_ALL", Limit(in_progress=1, per_minute=3))
    client = create_app(function.url).test_client()

    def status(address: str, forwarded: str = "") -> int:
        headers = {"X-Forwarded-For": forwarded} if forwarded else {}
        return upload(client, environ_overrides={"REMOTE_ADDR": address}, headers=headers | JSON).status_code

    assert [status("1.1.1.1"), status("1.1.1.1"), status("1.1.1.1", forwarded="9.9.9.9")] == [200, 200, 429]
    refused = upload(client, environ_overrides={"REMOTE_ADDR": "1.1.1.1"})
    assert refused.headers["Retry-After"] == "10" and "Too many requests come from your address" in refused.text
    assert [status("2.2.2.2"), status("3.3.3.3")] == [200, 429]
    assert client.get("/anime").status_code == client.get("/health").status_code == 200
    monkeypatch.setenv("TRUSTED_PROXIES", "1")
    client = create_app(function.url).test_client()
    assert [status("1.1.1.1", forwarded=f"8.8.8.8, {visitor}") for visitor in ("a", "a", "a", "b")] == [
        200,
        200,
        429,
        200,
    ]
    monkeypatch.setenv("TRUSTED_PROXIES", "many")
    with pytest.raises(ValueError, match="TRUSTED_PROXIES must be a number such as 1, not 'many'"):
        create_app(function.url)


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("unknown", "hidden", False),
    ],
)
def test_visitor_is_an_ipv4_address_or_an_ipv6_network(
    one: str, other: str, is_same: bool, function: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.web.request_limits.PER_ADDRESS", Limit(in_progress=1, per_minute=1))
    client = create_app(function.url).test_client()
    statuses = [upload(client, environ_overrides={"REMOTE_ADDR": each}).status_code for each in (one, other)]
    assert statuses == [200, 429 if is_same else 200]


def test_slow_upload_is_not_counted_until_the_function_is_called(
    function: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            meanwhile.append(app.test_client().get("/anime/model").status_code)
            return super().readinto(buffer)

    monkeypatch.setattr("serving.web.request_limits.IN_ALL", Limit(in_progress=1, per_minute=600))
    app, meanwhile, body = create_app(function.url), list[int](), form()
    options: Any = {"content_type": "multipart/form-data; boundary=x", "content_length": len(body)}
    assert app.test_client().post("/anime", input_stream=Slow(body), **options).status_code == 200
    assert meanwhile and set(meanwhile) == {200}


# --- heat maps


def test_switch_exists_per_genre_if_the_model_explains(client: FlaskClient) -> None:
    text = client.post("/anime", data={"sample": "nakusa"}).text
    switches = re.findall(r'<button type="submit" class="where"[^>]*value="(\w+)"\s+data-genre="([^"]+)"', text)
    assert switches == [("1", "Action"), ("24", "Sci-Fi"), ("2", "Adventure"), ("36", "Slice of Life")]
    assert text.count('aria-pressed="false"') == 4


def test_switch_is_hidden_for_files_without_a_script(client: FlaskClient) -> None:
    assert len(re.findall(r'class="where"[^>]* hidden>', upload(client).text)) == 4
    assert not re.search(r'class="where"[^>]* hidden>', client.post("/anime", data={"sample": "nakusa"}).text)


def test_switch_is_missing_if_the_model_does_not_explain(client: FlaskClient, function: Any) -> None:
    model = {name: value for name, value in function.body["model"].items() if name != "explains"}
    for identity in (model, {**model, "explains": False}):
        function.body = {**function.body, "model": identity}
        text = client.post("/anime", data={"sample": "nakusa"}).text
        assert 'class="where"' not in text
        assert ">Show where" not in text


def test_heat_map_of_a_sample_can_be_switched_on_and_off(client: FlaskClient, function: Any) -> None:
    text = client.post("/anime", data={"sample": "nakusa", "explain": "24"}).text
    assert function.explained == ["24"]
    assert re.search(r'id="preview"[^>]*src="/static/samples/nakusa.jpg"', text)
    assert re.search(r'alt="Heat map for Sci-Fi"\s+src="data:image/png;base64,', text)
    assert re.search(r'value=""\s+data-genre="Sci-Fi" aria-pressed="true"', text)
    assert text.count('aria-pressed="true"') == 1
    assert 'aria-pressed="true"' not in client.post("/anime", data={"sample": "nakusa", "explain": ""}).text
    assert function.explained == ["24", None]


def test_reason_for_a_missing_heat_map_is_shown(client: FlaskClient, function: Any) -> None:
    function.no_map_because = "Nothing in this poster speaks for Sci-Fi."
    text = client.post("/anime", data={"sample": "nakusa", "explain": "24"}).text
    assert function.no_map_because in text
    assert 'aria-pressed="true"' not in text


def test_json_includes_the_explanation(client: FlaskClient, function: Any) -> None:
    body = client.post("/anime", data={"sample": "nakusa", "explain": "Action"}, headers=JSON).json
    assert body["explanation"]["genre"] == {"id": 1, "name": "Action"}
    assert body["explanation"]["image"].startswith("data:image/png;base64,")
    address = {"address": "https://example.org/p.jpg", "explain": "Action"}
    explanation = client.post("/anime", data=address, headers=JSON).json["explanation"]
    assert explanation["poster"].startswith("data:image/jpeg;base64,")
    text = client.post("/anime", data=address).text
    assert (
        f'src="{explanation["poster"]}"' in text
        and "this page shows no pictures" not in text.partition("data-address")[0]
    )
    function.no_map_because = "None."
    body = client.post("/anime", data={"sample": "nakusa", "explain": "Action"}, headers=JSON).json
    assert body["explanation"] == {"genre": {"id": 1, "name": "Action"}, "image": None, "reason": "None."}


# --- the model


def test_model_page_shows_figures_with_intervals(client: FlaskClient) -> None:
    text = client.get("/anime/model").text
    scores = text[text.index('<ol class="scores"') : text.index("</ol>")]
    names = re.findall(r'class="name">([^<]+)<', scores)
    assert names == ["Action", "Comedy", "Sci-Fi", "Adventure", "Drama", "Slice of Life", "Horror", "Gourmet"]
    assert 'aria-label="F1 0.66, 95 percent interval 0.63 to 0.69"' in scores
    assert '<rect class="fill" width="66.0%"' in scores
    assert '<line class="whisker" x1="63.0%" x2="69.0%" y1="10" y2="10"/>' in scores
    assert scores.count("not measured") == 1
    assert "Version 3 (9f86d081)" in text
    assert re.search(r'0.47 <span class="unit">\(0.44.0.50\)</span>', text)


def test_model_page_shows_confusions_data_and_card(client: FlaskClient) -> None:
    text = client.get("/anime/model").text
    rows = [re.findall(r"<td[^>]*>([^<]+)</td>", row) for row in re.findall(r"<tr.*?</tr>", text, re.DOTALL)]
    assert [row for row in rows if row][:6] == [
        ["Drama", "Comedy", "52"],
        ["Sci-Fi", "Action", "31"],
        ["train", "4,700"],
        ["validation", "1,210"],
        ["test", "1,135"],
        ["all", "7,045"],
    ]
    assert '<time datetime="2026-11-23">23 November 2026</time>' in text
    assert "<h4>Intended use</h4>" in text


def test_model_page_tells_about_the_deployment_in_words(client: FlaskClient, function: Any) -> None:
    def words() -> str:
        found = re.search(r'<p class="deployment">(.*?)</p>', client.get("/anime/model").text, re.DOTALL)
        return " ".join(re.sub("<[^>]*>", "", found[1]).split()) if found else ""

    assert words() == (
        "This model has been live since 24 November 2026 and replaced version 2. It learned from posters of "
        "MyAnimeList. It was then tested on 1,135 other posters, which it had never seen. Its weighted F1 there is "
        "0.46; 1 would mean that every genre is right."
    )
    figures, deployment = {"test/weighted_f1": None}, function.model["deployment"]
    function.model["deployment"] = {**deployment, "previous_version": "3", "previous_bundle_sha256": "5f1a2623" * 8}
    assert "and replaced version 3 (5f1a2623)." in words(), "numbers may begin again"
    function.model["deployment"] = {**deployment, "previous_version": None, "collection": "films", "figures": figures}
    assert (
        words() == "This model has been live since 24 November 2026. It learned from posters of the catalogue “films”."
    )
    del function.model["deployment"]
    assert words() == ""


def test_model_page_tells_whether_the_model_still_works(client: FlaskClient, function: Any) -> None:
    deployment = function.model["deployment"]

    def words(**record: Any) -> str:
        function.model["deployment"] = {**deployment, **record}
        found = re.search(r'<p class="later">(.*?)</p>', client.get("/anime/model").text, re.DOTALL)
        return " ".join(found[1].split()) if found else ""

    assert words() == "", "an earlier version of the pipeline wrote the record"
    assert words(later={"key": "0", "scoreboard": {"titles": 29, "overall": None, "periods": []}}) == "", "too few"
    outcome = {"titles": 1234, "precision": 0.519, "promised_precision": 0.552, "recall": 0.48, "promised_recall": 0.5}
    for low, high, verdict in (
        (-0.06, 0.01, "So it does as well as it expected, as far as so many titles can tell."),
        (-0.06, -0.01, "That is worse than it expected, by more than chance explains."),
        (0.01, 0.06, "That is better than it expected, by more than chance explains."),
    ):
        overall = {**outcome, "difference": {"value": (low + high) / 2, "low": low, "high": high}}
        assert words(later={"key": "0", "scoreboard": {"titles": 1234, "overall": overall, "periods": [overall]}}) == (
            "Does it still work? Since its training, 1,234 new titles have come from series that it had never seen. "
            "Of the genres that it predicts for them, 52 % are right; it expected 55 %. It finds 48 % of the genres "
            f"that they have; it expected 50 %. {verdict}"
        )


def test_model_page_works_without_card_and_figures(client: FlaskClient, function: Any) -> None:
    function.model = {**function.model, "card": None, "figures": None}
    response = client.get("/anime/model")
    assert response.status_code == 200
    assert "This model has no figures." in response.text
    assert "This model has no card." in response.text


def test_prediction_links_to_the_model_page_with_the_full_fingerprint(client: FlaskClient, function: Any) -> None:
    sha256 = function.model["model"]["sha256"]
    answer = upload(client).text
    assert f"<code>{sha256[:12]}</code>" in answer and sha256 not in answer
    assert '<a href="/anime/model">Model card and figures</a>' in answer
    assert f"<code>{sha256}</code>" in client.get("/anime/model").text


def test_model_page_shows_errors(client: FlaskClient, function: Any) -> None:
    function.model_status, function.model = 503, b"Service Unavailable"
    response = client.get("/anime/model")
    assert response.status_code == 503
    assert "<h1>Model</h1>" in response.text
    assert "The function is starting up or busy" in response.text


# --- errors


def test_error_message_of_the_function_is_shown(client: FlaskClient, function: Any) -> None:
    function.status = 415
    function.body = {"error": {"code": "unsupported_format", "message": "This is no image <1>."}}
    response = upload(client)
    assert response.status_code == 415
    assert 'role="alert" data-code="unsupported_format"' in response.text
    assert "This is no image &lt;1&gt;." in response.text
    assert error_of(upload(client, headers=JSON)) == (415, "unsupported_format", "This is no image <1>.")


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (400, "bad_request", "The genre 'Cooking' is none that this model knows."),
        (403, "forbidden_host", "Posters are not fetched from example.org."),
        (404, "no_such_poster", "There is no poster 'posters/5.jpg' in the bucket."),
        (408, "too_slow", "The poster did not arrive in time."),
        (413, "too_large", "The poster is larger than 20 MiB."),
        (415, "unsupported_format", "This is no image that can be read."),
        (422, "unusable_image", "The image is cut off."),
        (503, "poster_unavailable", "The poster's host does not answer."),
        (504, "too_slow", "The poster's host took too long."),
    ],
)
def test_error_status_of_the_function_is_kept(
    status: int, code: str, message: str, client: FlaskClient, function: Any
) -> None:
    function.status, function.body = status, {"error": {"code": code, "message": message}}
    response = client.post("/anime", data={"address": "https://example.org/p.jpg"})
    assert response.status_code == status
    assert f'role="alert" data-code="{code}"' in response.text
    assert message in unescape(response.text)


@pytest.mark.parametrize("status", [403, 404, 429, 503, 504])
def test_typed_address_is_still_there_after_an_error(
    status: int, client: FlaskClient, function: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    function.status, function.body = status, {"error": {"code": "a_code", "message": "It is not there."}}
    if status == 429:
        monkeypatch.setattr("serving.web.request_limits.IN_ALL", Limit(in_progress=0, per_minute=600))
    response = client.post("/anime", data={"address": 'https://example.org/"p".jpg'})
    assert response.status_code == status and 'role="alert"' in response.text
    assert 'value="https://example.org/&#34;p&#34;.jpg"' in response.text


def test_page_without_a_function_explains_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUNCTION_URL", raising=False)
    client = create_app().test_client()
    assert client.get("/anime").status_code == 200
    assert error_of(upload(client, headers=JSON))[:2] == (503, "no_function")


def test_function_url_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, function: Any) -> None:
    monkeypatch.setenv("FUNCTION_URL", function.url)
    assert upload(create_app().test_client()).status_code == 200


@pytest.mark.parametrize("address", ["localhost:8080", "ftp://example.org", "http://"])
def test_invalid_function_url_is_refused_at_start(address: str) -> None:
    with pytest.raises(ValueError, match="must be an http:// or https:// address"):
        create_app(address)


def test_large_body_gets_a_readable_error(function: Any) -> None:
    """The connection is real, because a server that closes it too early resets it and the client sees no response."""
    server = make_server("127.0.0.1", 0, create_app(function.url), threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    try:
        body = bytes(40 * 2**20)
        connection.request("POST", "/anime", body, {"Content-Type": "multipart/form-data; boundary=x", **JSON})
        response = connection.getresponse()
        assert response.status == 413
        assert json.load(response)["error"]["code"] == "too_large"
    finally:
        connection.close()
        server.shutdown()
        thread.join()
        server.server_close()


def test_unknown_address_and_method_show_the_page(client: FlaskClient) -> None:
    unknown = client.get("/nowhere")
    assert unknown.status_code == 404
    assert "Not Found. Go back to the page and try again." in unknown.text
    wrong = client.put("/anime", headers=JSON)
    assert error_of(wrong)[:2] == (405, "bad_request")
    assert "POST" in wrong.headers["Allow"]


def test_page_asks_for_the_model_before_its_first_visitor(function: Any) -> None:
    create_app(function.url)
    deadline = time.monotonic() + 10
    while not function.headers and time.monotonic() < deadline:
        time.sleep(0.01)
    assert function.headers, "the first visitor would not wait for a function that is starting up"
