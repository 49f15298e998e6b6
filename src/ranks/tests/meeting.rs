//! How ranks meet over TCP, and what they say of those that do not.

use super::*;

/// A port that is free now.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Whether this machine has ::1.
fn has_six() -> bool {
    let found = std::net::TcpListener::bind("[::1]:0");
    found.map_err(|e| eprintln!("this machine has no ::1 ({e}): IPv6 is not tested")).is_ok()
}

#[test]
fn ranks_meet_by_ipv4_and_ipv6_at_once() {
    if !has_six() {
        return;
    }
    // Every pair of families between ranks that are beside each other.
    let hosts = ["::1", "::1", "::1", "127.0.0.1", "127.0.0.1", "::1"];
    let (size, port) = (hosts.len(), free_port());
    let sums: Vec<Vec<f32>> = std::thread::scope(|scope| {
        let of = |(rank, host): (usize, &str)| {
            let meeting = Meeting { rank, size, host: host.into(), port };
            scope.spawn(move || {
                let post = Post::start(move || tcp::join(&meeting, PATIENCE), PATIENCE).unwrap();
                let ranks = Ranks::connected(post, VERSION).unwrap();
                let mut sum = vec![1.0; 3];
                ranks.sum_in_order(&[vec![1.0; 3]], &mut sum).unwrap();
                ranks.leave().unwrap();
                sum
            })
        };
        let threads: Vec<_> = hosts.into_iter().enumerate().map(of).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(sums.iter().all(|sum| sum == &[7.0; 3]), "{sums:?}");
}

#[test]
fn ranks_meet_by_tcp_in_any_order_and_strangers_are_ignored() {
    let (size, port) = (4, free_port());
    let all = gradients(8, 100_000);
    let found: Vec<Vec<f32>> = std::thread::scope(|scope| {
        let of = |rank: usize| {
            let all = &all;
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(40 * (size - rank) as u64));
                let meeting = Meeting { rank, size, host: "localhost".into(), port };
                let post = Post::start(move || tcp::join(&meeting, PATIENCE), PATIENCE).unwrap();
                let ranks = Ranks::connected(post, VERSION).unwrap();
                let mut sum = vec![0.0; 100_000];
                ranks.sum_in_order(&all[2 * rank..2 * rank + 2], &mut sum).unwrap();
                ranks.leave().unwrap();
                sum
            })
        };
        let stranger = scope.spawn(move || {
            for _ in 0..20 {
                if let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) {
                    let _ = std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\n\r\n");
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let threads: Vec<_> = (0..size).map(of).collect();
        stranger.join().unwrap();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(found.iter().all(|sum| bits(sum) == bits(&found[0])));
}

#[test]
fn ranks_that_do_not_come_are_named() {
    let port = free_port();
    let meeting = move |rank| Meeting { rank, size: 3, host: "127.0.0.1".into(), port };
    let wait = Duration::from_millis(400);
    let first = std::thread::spawn(move || tcp::join(&meeting(0), wait).map(drop).unwrap_err().to_string());
    let other = std::thread::spawn(move || tcp::join(&meeting(1), wait).map(drop));
    let text = first.join().unwrap();
    assert!(text.starts_with("of 3 ranks 2 did not come"), "{text}");
    assert!(other.join().unwrap().is_err());
}

/// Introduces itself to rank 0 as rank `rank` of three, by the protocol of version `version`.
fn guest(port: u16, rank: u32, version: &[u8; 8]) -> std::net::TcpStream {
    let mut stream = (0..500)
        .find_map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        })
        .unwrap();
    let mut hello = version.to_vec();
    hello.extend(rank.to_le_bytes().into_iter().chain(3u32.to_le_bytes()).chain([1, 0]));
    std::io::Write::write_all(&mut stream, &hello).unwrap();
    stream
}

#[test]
fn a_rank_that_ends_while_they_meet_is_named_at_once_on_every_rank() {
    let port = free_port();
    let start = Instant::now();
    let join = move |rank| {
        let meeting = Meeting { rank, size: 3, host: "127.0.0.1".into(), port };
        std::thread::spawn(move || tcp::join(&meeting, PATIENCE).map(drop).unwrap_err().to_string())
    };
    // Before all have come.
    let first = join(0);
    drop(guest(port, 2, b"dporank2"));
    let text = first.join().unwrap();
    assert!(text.starts_with("rank 2, which came from 127.0.0.1, has ended before all"), "{text}");
    // When all have come, and rank 1 waits for it.
    let (first, second) = (join(0), join(1));
    let mut ended = guest(port, 2, b"dporank2");
    let mut told = [0];
    std::io::Read::read_exact(&mut ended, &mut told).unwrap();
    drop(ended);
    for text in [first.join().unwrap(), second.join().unwrap()] {
        assert!(text.starts_with("rank 2, which came from 127.0.0.1, has ended before all"), "{text}");
    }
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
}

#[test]
fn a_rank_of_another_protocol_is_refused_by_name() {
    let port = free_port();
    let meeting = Meeting { rank: 0, size: 3, host: "127.0.0.1".into(), port };
    let first = std::thread::spawn(move || tcp::join(&meeting, PATIENCE).map(drop).unwrap_err().to_string());
    let _guest = guest(port, 2, b"dporank1");
    let text = first.join().unwrap();
    assert!(text.starts_with("rank 2 of 3, which came from 127.0.0.1, is of another version"), "{text}");
}

#[test]
fn a_neighbour_that_is_cut_off_is_noticed_although_rank_0_reaches_both() {
    /// Loses what goes to one rank and comes from it, after a while.
    struct Between(Channels, usize, Instant);
    impl wire::Wire for Between {
        fn send(&mut self, to: usize, frame: Vec<u8>) -> Result<(), wire::Lost> {
            if to == self.1 && Instant::now() > self.2 { Ok(()) } else { self.0.send(to, frame) }
        }
        fn poll(&mut self) -> Result<Option<(usize, Vec<u8>)>, wire::Lost> {
            let found = self.0.poll()?;
            Ok(found.filter(|(from, _)| *from != self.1 || Instant::now() < self.2))
        }
        fn is_flushed(&self) -> bool {
            true
        }
        fn close(&mut self, _: bool) {}
    }
    let patience = Duration::from_millis(600);
    let cut = Instant::now() + Duration::from_millis(200);
    let found: Vec<String> = std::thread::scope(|scope| {
        let of = |(rank, wire): (usize, Channels)| {
            scope.spawn(move || {
                let joined = move || {
                    let wire: Box<dyn wire::Wire> = match rank {
                        0 => Box::new(wire),
                        _ => Box::new(Between(wire, 3 - rank, cut)),
                    };
                    Ok((wire, rank, 3))
                };
                let post = Post::start(joined, patience).unwrap();
                post.receive(if rank == 0 { 1 } else { 0 }, 0).unwrap_err().to_string()
            })
        };
        let threads: Vec<_> = Channels::connected(3).into_iter().enumerate().map(of).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for text in found {
        let named = text.starts_with("rank 1 of 3 has given") || text.starts_with("rank 2 of 3 has given");
        assert!(named && text.contains("no sign of life"), "{text}");
    }
}
