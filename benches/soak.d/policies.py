"""What do the policies say? Versions that differ in rule names and in one path; every other path has the same verdict in all."""

FLIPPING = "/flip"


def version(number, ports, corp):
    """The documents of this version: {file name: text}. `/flip` is allowed in odd versions alone."""
    return {"issuers.yaml": issuers(ports, corp), "orders.yaml": orders(number, ports), "checkout.yaml": checkout(number, ports)}


def is_open(number):
    """Does this version allow `/flip`?"""
    return number % 2 == 1


def issuers(ports, corp):
    """`corp` is an authorization server behind the fault proxy; the keys of `partner` come in a file."""
    issuer = f"http://127.0.0.1:{ports['issuer']}"
    return f"""apiVersion: countersign.dev/v1alpha1
kind: Issuer
metadata: {{ name: corp }}
spec:
  issuer: {corp}
  jwks: {{ uri: "{issuer}/jwks" }}
  tokenEndpoint: "{issuer}/token"
  insecure: true
  leeway: 2s
---
apiVersion: countersign.dev/v1alpha1
kind: Issuer
metadata: {{ name: partner }}
spec:
  issuer: https://partner.example
  jwks: {{ file: partner.jwks }}
  leeway: 2s
"""


def orders(number, ports):
    flip = f"  - {{ name: flip-{number}, to: {{ paths: [\"{FLIPPING}/*\"] }}, from: {{ scopes: [\"orders:read\"] }} }}\n"
    return f"""apiVersion: countersign.dev/v1alpha1
kind: InboundPolicy
metadata: {{ name: orders, namespace: shop }}
spec:
  workloads: {{ labels: {{ app: orders }} }}
  ports: [{ports['application']}]
  tls: {{ certFile: server.crt, keyFile: server.key, clientCaFile: ca.crt, clientAuth: optional }}
  tokens:
  - {{ issuer: corp, audiences: ["https://orders.shop"] }}
  - {{ issuer: partner, audiences: ["https://orders.shop"] }}
  forwardClaims: {{ X-Client-Id: "@client" }}
  timeouts: {{ connect: 2s, firstByte: 4s, idle: 4s }}
  rules:
  - {{ name: always-{number}, to: {{ paths: ["/always/*"] }}, from: {{ scopes: ["orders:read"] }} }}
  - {{ name: never-{number}, to: {{ paths: ["/never/*"] }}, from: {{ scopes: ["orders:read"] }} }}
  - {{ name: not-even-so-{number}, effect: deny, to: {{ paths: ["/never/*"] }} }}
  - {{ name: scope-{number}, to: {{ paths: ["/scope/*"] }}, from: {{ scopes: ["orders:admin"] }} }}
  - {{ name: peer-{number}, to: {{ paths: ["/peer/*"] }}, from: {{ peers: ["spiffe://soak.example/checkout"] }} }}
  - {{ name: public-{number}, public: true, to: {{ paths: ["/public/*"] }} }}
{flip if is_open(number) else ""}"""


def checkout(number, ports):
    """One rule over connections of HTTP/1.1, one over whatever ALPN says, which is HTTP/2."""
    rule = lambda name, port, protocol: f"""  - name: {name}-{number}
    to: {{ hosts: [localhost], ports: [{port}] }}
    token: {{ credential: checkout, scopes: ["orders:read"], resource: "https://orders.shop" }}
    originate: {{ port: {port}, serverName: orders.example, caFile: ca.crt, certFile: client.crt, keyFile: client.key }}
    protocol: {protocol}
    timeouts: {{ connect: 3s, firstByte: 7s, idle: 8s }}
"""
    return f"""apiVersion: countersign.dev/v1alpha1
kind: Credential
metadata: {{ name: checkout, namespace: shop }}
spec:
  issuer: corp
  clientId: checkout
  authentication:
    clientSecretBasic: {{ secretFile: client-secret }}
---
apiVersion: countersign.dev/v1alpha1
kind: OutboundPolicy
metadata: {{ name: checkout, namespace: shop }}
spec:
  workloads: {{ labels: {{ app: checkout }} }}
  egress: deny
  rules:
{rule("orders", ports["sidecars"], "http1")}{rule("multiplexed", ports["sidecars_h2"], "auto")}"""
