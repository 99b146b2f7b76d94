//! Nothing to link: the package holds the micro-benchmarks in `benches/` and the comparisons `./compare` and
//! `./interception`.
