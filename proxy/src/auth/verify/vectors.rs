//! Do we judge signatures as everybody should? Public vectors through our own keys and our own parser: the JWS examples of
//! RFC 7515 (appendix A), RFC 7520 (section 4) and RFC 8037 (appendix A.4), and Project Wycheproof. Where we deviate, it is
//! towards refusing, and the reason stands beside it.

mod jose;
mod wycheproof;
