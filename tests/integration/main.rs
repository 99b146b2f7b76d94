//! Does it work end to end? Both planes as built programs, real sockets, and servers and clients that we did not write.
//!
//! A module that begins with `with_` needs what its name says, which `tests/run` installs; the others need nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail so"
)]

mod access_log;
mod admin_pages;
mod answers;
mod as_direct;
mod attacks;
mod authoring;
mod bindings;
mod callers;
mod commands;
mod connections;
mod control_plane;
mod control_plane_faults;
mod cut_answers;
mod destinations;
mod drain;
mod explanations;
mod floods;
mod framing;
mod h1spec;
mod hostile;
mod identity;
mod inbound_bytes;
mod init;
mod introspection;
mod invariants;
mod memory;
mod mesh;
mod mesh_faults;
mod open_streams;
mod originated;
mod proxy_status;
mod readme;
mod recipes;
mod refused_streams;
mod reload;
mod requirements;
mod resource_metadata;
mod short_memory;
mod slow_callers;
mod slow_readers;
mod spellings;
mod stale;
mod streams;
mod streams_on_record;
mod support;
mod tidy;
mod tls;
mod token_answers;
mod totals;
mod unended_streams;
mod unread_streams;
mod wire;
mod with_curl;
mod with_curl_as_judged;
mod with_curl_caller_faults;
mod with_curl_faults;
mod with_curl_http2;
mod with_curl_streams;
mod with_curl_totals;
mod with_curl_tunnel;
mod with_curl_when;
mod with_django_oauth;
mod with_django_oauth_opaque;
mod with_dnsmasq;
mod with_dnsmasq_moved;
mod with_grpc;
mod with_grpc_streams;
mod with_http2_server;
mod with_json_schema;
mod with_oauth_client;
mod with_oauth_faults;
mod with_oidc_provider;
mod with_oidc_provider_auth;
mod with_oidc_provider_dpop;
mod with_oidc_provider_exchange;
mod with_oidc_provider_faults;
mod with_oidc_provider_keys;
mod with_oidc_provider_mtls;
mod with_oidc_provider_opaque;
mod with_oidc_provider_outbound;
mod with_oidc_provider_refused;
mod with_pods;
mod with_pods_authorities;
mod with_pods_bytes;
mod with_pods_calls;
mod with_pods_churn;
mod with_pods_databases;
mod with_pods_excluded;
mod with_pods_exempt;
mod with_pods_init;
mod with_pods_init_checks;
mod with_pods_judged_again;
mod with_pods_listeners;
mod with_pods_local;
mod with_pods_names;
mod with_pods_own;
mod with_pods_postgresql;
mod with_pods_tls;
mod with_pods_transparent;
mod with_prometheus;
mod with_readme;
mod with_ws;
mod with_ws_cases;
mod with_ws_ended;
mod with_ws_http2;
mod with_yaml_language_server;
mod words;
