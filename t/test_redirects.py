"""What one location proved is no proof in the next: every location that
requires a user judges by its own sources."""

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    server {
        listen {{ listen }};
        location /c/ {
            lunary on;
            lunary_session sess:$cookie_sid format=string;
            error_page 418 = @proven;
            try_files /nonexistent @proven;
        }
        location @proven {
            lunary on;
            lunary_require_user verified;
            proxy_pass {{ upstream }};
        }
        location /d/ {
            lunary on;
            lunary_session sess:$cookie_sid format=string;
            lunary_require_user verified;
            proxy_pass {{ upstream }};
        }
    }
}
"""

CHAT = {"model": "m", "messages": []}


def test_a_session_of_another_location_is_no_proof(nginx, redis, runs):
    redis.client.set("sess:1", "alice")
    one = nginx(CONFIG)

    assert one.post("/d/v1/chat/completions", json=CHAT,
                    headers={"Cookie": "sid=1"}).status == 200
    assert one.post("/c/v1/chat/completions", json=CHAT,
                    headers={"Cookie": "sid=1"}).status == 401

    first, second = runs(2)
    assert first["user_id"] == "alice"
    assert "user_id" not in second
    assert second["outcome"] == "rejected"
