//! Does gRPC pass through unchanged? The cases of grpcio against grpc-js, direct, inbound and outbound.

use crate::support::tools;

/// The same cases without a sidecar: what fails here is not our fault.
#[test]
fn the_cases_pass_without_a_sidecar() {
    let (_server, port) = tools::grpc_server();
    assert_all_ok(&tools::grpc_client(&[&format!("127.0.0.1:{port}")]));
}

fn assert_all_ok(results: &[serde_json::Value]) {
    assert!(results.len() >= 13, "{results:?}");
    for result in results {
        assert_eq!(result["ok"], true, "{result}");
    }
}
