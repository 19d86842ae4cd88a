//! `green-api-bridge emulator`: the emulator from the command line.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;

use secrecy::{ExposeSecret, SecretString};

use super::Emulator;
use super::control::{HELP, fits_a_path};

/// Run the Green API queue as a local server, for anyone's tests
///
/// Point a client's apiUrl at the address it prints. It keeps notifications in memory, hands them out through
/// receiveNotification and forgets them on deleteNotification, as the real service does. Control endpoints queue
/// notifications and inject faults. No account is needed and nothing leaves this machine.
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub struct Arguments {
    /// Where to listen; port 0 takes a free one
    ///
    /// The control endpoints take no token: keep this on the loopback interface.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// An instance to serve: idInstance and apiTokenInstance; repeat it for more
    #[arg(long = "instance", value_name = "ID:TOKEN", required = true)]
    pub instances: Vec<InstanceArgument>,

    /// Queue so many text messages a second in every instance, a million at most
    ///
    /// As the control endpoint `generate` does, from the start on.
    #[arg(long, value_name = "PER_SECOND")]
    pub generate: Option<f64>,
}

/// An id and its token, as typed: `ID:TOKEN`, both of letters, digits, `-` and `_`.
///
/// Looked at only when it is used: what a parser of arguments refuses, it repeats, token and all.
#[derive(Clone, Debug)]
pub struct InstanceArgument(SecretString);

impl FromStr for InstanceArgument {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(SecretString::from(text)))
    }
}

impl InstanceArgument {
    fn id_and_token(&self) -> io::Result<(String, String)> {
        match self.0.expose_secret().split_once(':') {
            Some((id, token)) if fits_a_path(id) && fits_a_path(token) => Ok((id.to_owned(), token.to_owned())),
            _ => {
                let form =
                    "--instance: expected ID:TOKEN, both of letters, digits, `-` and `_`, such as 1101000001:secret";
                Err(io::Error::new(io::ErrorKind::InvalidInput, form))
            }
        }
    }
}

/// Serves until `stop` is ready.
///
/// Says on stderr where it listens, never the tokens.
///
/// # Errors
///
/// The address cannot be bound; `InvalidInput` when an instance is not of its form, an id is given twice, or the rate to
/// generate at is out of range.
pub async fn serve(arguments: Arguments, stop: impl Future<Output = ()>) -> io::Result<()> {
    let instances = arguments.instances.iter().map(InstanceArgument::id_and_token);
    let instances = instances.collect::<io::Result<Vec<_>>>()?;
    let ids: Vec<String> = instances.iter().map(|(id, _)| id.clone()).collect();
    let emulator = Emulator::start(arguments.listen, instances).await?;
    for id in &ids {
        emulator.turn(id, |knobs| knobs.rate_limit = true);
        if let Some(per_second) = arguments.generate {
            emulator.generate(id, per_second)?;
        }
    }
    let url = emulator.url();
    if !emulator.address().ip().to_canonical().is_loopback() {
        eprintln!("the emulator is open to others: whoever reaches the port can control it, without a token");
    }
    eprintln!("Green API emulator on {}; how to control it: curl {url}/_emulator/", emulator.address());
    for id in ids {
        eprintln!("instance {id}: apiUrl {url}");
    }
    stop.await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command, FromArgMatches};

    use super::*;

    #[test]
    fn an_instance_is_an_id_and_a_token() {
        let parts = |text: &str| InstanceArgument(SecretString::from(text)).id_and_token();
        assert_eq!(parts("1101000001:secret").expect("well formed"), ("1101000001".to_owned(), "secret".to_owned()));
        for wrong in ["", "1101000001", "1101000001:", ":secret", "1101000001:se/cret", "1:2:secret"] {
            let refused = parts(wrong).expect_err(wrong);
            assert!(
                refused.kind() == io::ErrorKind::InvalidInput && !refused.to_string().contains(":se/"),
                "{refused}"
            );
        }
    }

    #[test]
    fn the_command_line_takes_several_instances_and_at_least_one() {
        let parse = |line: &str| {
            let command = Arguments::augment_args(Command::new("emulator"));
            let matches = command.try_get_matches_from(line.split(' '))?;
            Arguments::from_arg_matches(&matches)
        };
        let arguments = parse("emulator --instance 1:one --instance 2:two").expect("well formed");
        assert_eq!(arguments.listen, SocketAddr::from(([127, 0, 0, 1], 8080)));
        assert_eq!(arguments.instances.len(), 2);
        assert!(parse("emulator --listen 127.0.0.1:0").is_err());
    }

    #[tokio::test]
    async fn it_serves_until_it_is_stopped() {
        let arguments = |listen| Arguments {
            listen,
            instances: vec!["1101000001:secret".parse().expect("well formed")],
            generate: None,
        };
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        serve(arguments(any_port), async {}).await.expect("it stops");
        let taken = tokio::net::TcpListener::bind(any_port).await.expect("a free port");
        let address = taken.local_addr().expect("an address");
        let refused = serve(arguments(address), std::future::pending()).await;
        assert_eq!(refused.expect_err("the port is taken").kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn arguments_do_not_show_the_token() {
        let arguments = Arguments {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            instances: vec!["1101000001:t0psecret".parse().expect("well formed")],
            generate: None,
        };
        let shown = format!("{arguments:?}");
        assert!(!shown.contains("t0psecret"), "{shown}");
    }
}
