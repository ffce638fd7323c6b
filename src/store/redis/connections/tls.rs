//! Certificates for connections with TLS.

use super::address::Query;

/// The certificates of an address with `rediss`, from files that its query names.
#[derive(Clone, Default)]
pub(super) struct Tls {
    #[cfg(feature = "redis-tls")]
    pub(super) certificates: Option<bb8_redis::redis::TlsCertificates>,
}

impl Tls {
    /// `ca_file`: whom to trust, in place of the system's certificates. `certificate_file`, `key_file`: who this is.
    #[cfg(feature = "redis-tls")]
    pub(super) fn of(query: &mut Query, is_wanted: bool) -> Result<Self, String> {
        use bb8_redis::redis::{ClientTlsConfig, TlsCertificates};

        let mut file = |name: &str| {
            let path = query.take(name);
            path.map(|path| std::fs::read(&path).map_err(|error| format!("{name}: {path}: {error}"))).transpose()
        };
        let (root_cert, certificate, key) = (file("ca_file")?, file("certificate_file")?, file("key_file")?);
        let client_tls = match (certificate, key) {
            (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig { client_cert, client_key }),
            (None, None) => None,
            _ => return Err("`certificate_file` and `key_file` belong together".into()),
        };
        if !is_wanted {
            return match (root_cert, client_tls) {
                (None, None) => Ok(Self::default()),
                _ => Err("certificates need `rediss` in place of `redis`".into()),
            };
        }
        // The application may have chosen another provider, and then it is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self { certificates: Some(TlsCertificates { client_tls, root_cert }) })
    }

    #[cfg(not(feature = "redis-tls"))]
    pub(super) fn of(_: &mut Query, is_wanted: bool) -> Result<Self, String> {
        if is_wanted { Err("TLS needs the crate's feature `redis-tls`".into()) } else { Ok(Self::default()) }
    }
}
