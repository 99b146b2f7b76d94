"""Where do the proxies get their token? A token endpoint (RFC 6749 §4.4) that knows one client and answers one token.

    token_server.py PORT SECRET_FILE TOKEN_FILE [ADDRESS]
"""

import base64
import http.server
import json
import pathlib
import sys
import urllib.parse


def handler(secret, token):
    expected = "Basic " + base64.b64encode(f"orders:{secret}".encode()).decode()

    class TokenEndpoint(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            form = dict(urllib.parse.parse_qsl(body))
            if self.path != "/token":
                self.answer(404, {"error": "not_found"})
            # Envoy 1.40 sends the secret in the body, whatever its auth_type says (RFC 6749 §2.3.1 has both).
            elif self.headers.get("Authorization") != expected and form.get("client_secret") != secret:
                self.answer(401, {"error": "invalid_client"})
            elif form.get("grant_type") != "client_credentials" or form.get("scope") != "stock:read":
                self.answer(400, {"error": "invalid_request"})
            else:
                self.answer(200, {"access_token": token, "token_type": "Bearer", "expires_in": 3600})

        def answer(self, status, content):
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    return TokenEndpoint


if __name__ == "__main__":
    port, secret_file, token_file, *address = sys.argv[1:]
    secret, token = (pathlib.Path(file).read_text().strip() for file in (secret_file, token_file))
    http.server.ThreadingHTTPServer((address[0] if address else "127.0.0.1", int(port)), handler(secret, token)).serve_forever()
