"""What is masked where something leaves this machine, and what is not."""

from __future__ import annotations

import pytest

from lightning_evo.utils.masking import SHOW_SECRETS, Mask, is_secret_name


def _names(text):
    return text.split()


SECRET_NAMES = _names(
    "api_key apikey API_KEY apiKey APIKey OPENAI_API_KEY x-api-key token access_token accessToken "
    "hf_token auth_token refresh_token github_token password passwd db_password password1 user_password "
    "passphrase secret client_secret secret_key SECRET_KEY aws_secret_access_key credentials credential "
    "authorization Authorization private_key ssh_private_key secrets api_keys api_tokens access_tokens "
    "pwd smtp_pass jwt cookie bearer auth model.init_args.api_key trainer.logger.init_args.token "
    "model.credentials.user password_prod"
)
HARMLESS_NAMES = _names(
    "num_tokens max_tokens token_dim tokenizer pad_token_id pad_token eos_token mask_token cls_token "
    "class_token tokens password_length secret_name token_type token_level n_tokens tokenizer_path vocab "
    "key keys monkey keyboard lr secretary passenger compass bypass_ratio author authors key_dim num_keys "
    "credentials_file password_policy token_embedding attention special_tokens stop_token kernel_size "
    "passes auth_type"
)


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_names_that_look_secret(name):
    assert is_secret_name(name)
    masked = Mask().data(
        {name: "hunter22", "nested": [{name: ["hunter22", {"deeper": "hunter22"}]}], name + "": "hunter22"}
    )
    assert "hunter22" not in repr(masked)


@pytest.mark.parametrize("name", HARMLESS_NAMES)
def test_names_that_do_not(name):
    assert not is_secret_name(name)
    assert Mask().data({name: "hunter22"}) == {name: "hunter22"}


@pytest.mark.parametrize(
    "value", [None, True, 0, 12, 1.5, "", "none", "auto", "${API_KEY}", "<pad>", "[CLS]", "secrets.json", "0.5"]
)
def test_values_that_are_no_secret_under_any_name(value):
    assert Mask().data({"token": value, "password": value}) == {"token": value, "password": value}


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("postgresql://bob:hunter2@db:5432/runs", "hunter2"),
        ("cannot reach https://bob:p%40ss:w0rd@host/x?y=1", "p%40ss:w0rd"),
        ("redis://:hunter2@host", "hunter2"),
        ("a bob:x@y postgres://u:a@b@host/", "a@b"),
        ("https://0123456789abcdef0123456789abcdef@sentry.io/1", "0123456789abcdef"),
        ("key AKIAIOSFODNN7EXAMPLE used", "AKIAIOSFODNN7EXAMPLE"),
        ("ghp_0123456789abcdefghijABCDEFGHIJ012345 is expired", "ghp_"),
        ("hf_abcdefghijklmnopqrstuvwxyz", "hf_abc"),
        ("sk-proj-abcdefghijklmnopqrstuvwxyz0123", "abcdefghij"),
        ("Authorization: Bearer abc123.def456-ghi", "abc123"),
        ("{'Authorization': 'Basic dXNlcjpwYXNzd29yZDE='}", "dXNlcjpwYXNzd29yZDE"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----", "MIIE"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmN", "dozjgNryP4J3jVmN"),
        ("connect(host='x', password='hunter2', port=3)", "hunter2"),
        ('{"api_key": "hunter2", "lr": 0.1}', "hunter2"),
        ("https://api/x?token=hunter2&lr=0.1", "hunter2"),
        ("Server=db;User Id=bob;Password=hunter2;Port=3", "hunter2"),
        ("--api-key hunter2 --lr 3", "hunter2"),
        ("access_token: hunter2", "hunter2"),
        ("DefaultEndpointsProtocol=https;AccountKey=aHVudGVyMg==;x=y", "aHVudGVyMg"),
        ("export WANDB_API_KEY=hunter2", "hunter2"),
        ("https://hooks.slack.com/services/T000/B000/XXXXhunter2", "hunter2"),
    ],
)
def test_secrets_in_texts(text, secret):
    for masked in (Mask().text(text), repr(Mask().data({"note": [text]}))):
        assert secret not in masked
        assert "***masked-" in masked
    assert Mask().text(Mask().text(text)) == Mask().text(text)


@pytest.mark.parametrize(
    "text",
    [
        "ValueError: token_dim=64 is not divisible by num_heads=5",
        "num_tokens=512, max_tokens: 1024, pad_token='<pad>', password=None, token=True",
        "SyntaxError: Unexpected token: foo",
        "KeyError: 'token'",
        "the password is missing",
        "ssh://git@github.com/x.git and http://host:8080/path and user@example.com",
        "state_dict: size mismatch for key_proj.weight: torch.Size([3, 4])",
        "tokenizer: my.package.Tokenizer, kernel=3; keys=['a', 'b']",
        'File "/home/bob/secret_project/train.py", line 3, in fit',
        "commit 0123456789abcdef0123456789abcdef01234567",
        "missing key: encoder.weight; key = value",
    ],
)
def test_texts_without_secrets_stay_as_they_are(text):
    assert Mask().text(text) == text


def test_a_secret_of_the_config_is_masked_wherever_it_appears_and_always_alike():
    config = {
        "model": {"class_path": "my.Net", "init_args": {"api_key": "correct/horse 7'x", "lr": 0.1, "other_key": "adam"}}
    }
    mask = Mask(config)
    masked = mask.data(config)["model"]
    assert masked == {
        "class_path": "my.Net",
        "init_args": {"api_key": "***masked-1***", "lr": 0.1, "other_key": "adam"},
    }
    for form in ("correct/horse 7'x", "correct%2Fhorse%207%27x", "correct%2Fhorse+7%27x"):
        assert mask.text(f"got {form}.") == "got ***masked-1***."
    assert mask.paths(config) == ["model.init_args.api_key"]
    assert mask.data("correct/horse 7'x", "anything") == "***masked-1***"


def test_a_short_secret_is_masked_under_its_name_only():
    mask = Mask({"password": "adam"})
    assert mask.data({"password": "adam", "optimizer": "adam"}) == {"password": "***masked-1***", "optimizer": "adam"}


def test_masking_can_be_turned_off(monkeypatch):
    monkeypatch.setenv(SHOW_SECRETS, "1")
    assert Mask({"token": "x" * 20}).data({"token": "x" * 20}) == {"token": "x" * 20}
    assert Mask().text("password='hunter2'") == "password='hunter2'"


def test_a_command_line_as_a_list():
    assert Mask().data(["--api-key", "hunter2", "--lr", "x"]) == ["--api-key", "***masked-1***", "--lr", "x"]


def test_long_texts_take_no_time():
    for text in (
        "password=" * 20_000,
        "a" * 200_000,
        "://" * 50_000,
        "key: " * 40_000,
        "'token" * 30_000,
        "x:" * 99_000 + "@",
    ):
        Mask().text(text)
