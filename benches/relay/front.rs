//! TLS in front of the emulator, in a process of its own.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::process::Process;

const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";

/// Writes the TLS certificate and its key into the folder, and returns the name of the certificate's file.
pub fn certificate(folder: &Path) -> &'static str {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(folder.join(CERTIFICATE), cert.pem()).unwrap();
    fs::write(folder.join(KEY), signing_key.serialize_pem()).unwrap();
    CERTIFICATE
}

/// A front for this port, and its URL.
pub fn start(folder: &Path, port: &str, number: usize) -> (Process, String) {
    let port_file = format!("front-{number}");
    let process = Process::role(folder, &["front", port, &port_file]);
    let url = loop {
        match fs::read_to_string(folder.join(&port_file)) {
            Ok(text) if text.ends_with('\n') => break format!("https://localhost:{}", text.trim()),
            _ => std::thread::yield_now(),
        }
    };
    (process, url)
}

/// Serves, and writes its own port into the file `port_file`.
pub async fn serve(port: String, port_file: String) {
    let certificate = CertificateDer::from_pem_file(CERTIFICATE).unwrap();
    let key = PrivateKeyDer::from_pem_file(KEY).unwrap();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    fs::write(port_file, format!("{}\n", listener.local_addr().unwrap().port())).unwrap();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let (acceptor, port) = (acceptor.clone(), port.parse::<u16>().unwrap());
        tokio::spawn(async move {
            let mut client = acceptor.accept(client).await?;
            copy_bidirectional(&mut client, &mut TcpStream::connect(("127.0.0.1", port)).await?).await
        });
    }
}
