"""Who signs, and what? An RSA key, its JWK set, and tokens by RFC 9068, with openssl alone."""

import base64
import hashlib
import json
import re
import subprocess
import time
import uuid

AUDIENCE = "https://orders.shop"


class Issuer:
    """An authorization server's key and what it signs."""

    def __init__(self, folder, url):
        self.url = url
        self.key_file = folder / "issuer.pem"
        self.public_file = folder / "issuer-public.pem"
        self.jwks_file = folder / "issuer.jwks"
        openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", self.key_file)
        openssl("pkey", "-in", self.key_file, "-pubout", "-out", self.public_file)
        described = openssl("rsa", "-pubin", "-in", self.public_file, "-noout", "-modulus").decode()
        modulus = bytes.fromhex(re.search(r"Modulus=([0-9A-F]+)", described).group(1))
        self.kid = hashlib.sha256(modulus).hexdigest()[:16]
        key = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.kid, "n": encode(modulus), "e": "AQAB"}
        self.jwks_file.write_text(json.dumps({"keys": [key]}))

    def token(self, **changes):
        """An access token in RS256 that `orders` accepts, but for the claims given."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "sub": "checkout",
            "client_id": "checkout",
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + 3600,
            "jti": str(uuid.uuid4()),
            "scope": "orders:read orders:write",
            **changes,
        }
        head = {"typ": "at+jwt", "alg": "RS256", "kid": self.kid}
        signed = ".".join(encode(json.dumps(part, separators=(",", ":")).encode()) for part in (head, claims))
        signature = openssl("dgst", "-sha256", "-sign", self.key_file, input=signed.encode())
        return f"{signed}.{encode(signature)}"


def certificate(folder, name, host):
    """A server's certificate, good for a day, its key, and the CA that signed it: NAME.pem, NAME-key.pem and NAME-ca.pem."""
    file = lambda end: folder / f"{name}{end}.pem"
    make = ["req", "-x509", "-days", 1, "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl(*make, "-keyout", file("-ca-key"), "-out", file("-ca"), "-subj", "/CN=CA of the comparison")
    signed = ["-CA", file("-ca"), "-CAkey", file("-ca-key"), "-addext", "basicConstraints=critical,CA:FALSE"]
    openssl(*make, "-keyout", file("-key"), "-out", file(""), "-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}", *signed)


def encode(octets):
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def openssl(*argv, input=None):
    return subprocess.run(["openssl", *map(str, argv)], input=input, capture_output=True, check=True).stdout
