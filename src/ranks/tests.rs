//! What ranks do together, over channels between threads and over TCP.

mod meeting;

use std::time::{Duration, Instant};

use super::channels::Channels;
use super::pieces::PIECE;
use super::post::Joined;
use super::tcp::{self, Meeting};
use super::*;
use crate::random::Stream;

const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `work` on every rank, as threads; returns what each found.
fn together<T: Send>(size: usize, work: impl Fn(&Ranks) -> T + Sync) -> Vec<T> {
    let wires = Channels::connected(size);
    std::thread::scope(|scope| {
        let of = |(rank, wire): (usize, Channels)| {
            let work = &work;
            scope.spawn(move || {
                let joined = move || Ok::<Joined, Error>((Box::new(wire), rank, size));
                work(&Ranks::connected(Post::start(joined, PATIENCE).unwrap(), VERSION).unwrap())
            })
        };
        let threads: Vec<_> = wires.into_iter().enumerate().map(of).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn gradients(count: usize, len: usize) -> Vec<Vec<f32>> {
    let of = |i: usize| {
        let stream = Stream::new(i as u64, "gradient");
        // Of very different sizes, so that another order gives other bits.
        (0..len).map(|j| (stream.uniform(j as u64) - 0.5) * 10f32.powi((i % 7) as i32)).collect()
    };
    (0..count).map(of).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn the_sum_is_that_of_one_rank_to_the_bit() {
    // Two whole pieces and a part of one.
    for (count, len) in [(8, (2 << 16) + 77), (5, 3), (3, 0)] {
        let all = gradients(count, len);
        let mut alone = vec![0.0; len];
        all.iter().for_each(|gradient| alone.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g));
        if len > 1000 {
            let mut other = vec![0.0; len];
            all.iter()
                .rev()
                .for_each(|gradient| other.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g));
            assert_ne!(bits(&other), bits(&alone), "the order does not matter here");
        }
        for size in 2..=6 {
            let cuts = shares(&vec![1; count], size);
            let sums = together(size, |ranks| {
                let own = cuts[ranks.rank()].clone();
                let mut sum = vec![0.0; len];
                // Rank 0 has added what it has, as it does in training.
                if ranks.is_first() {
                    all[own]
                        .iter()
                        .for_each(|gradient| sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g));
                    ranks.sum_in_order(&[], &mut sum).unwrap();
                } else {
                    ranks.sum_in_order(&all[own], &mut sum).unwrap();
                }
                ranks.leave().unwrap();
                sum
            });
            assert!(sums.iter().all(|sum| bits(sum) == bits(&alone)), "{count} gradients on {size} ranks");
        }
    }
}

#[test]
fn what_is_gathered_and_broadcast_arrives_everywhere() {
    let large: Vec<u8> = (0..(PIECE * 2 + 5)).map(|i| (i % 251) as u8).collect();
    let found = together(4, |ranks| {
        let gathered = ranks.gather(vec![ranks.rank() as u8; ranks.rank()]).unwrap();
        let told = ranks.broadcast(if ranks.is_first() { large.clone() } else { Vec::new() }).unwrap();
        ranks.leave().unwrap();
        (gathered, told == large, ranks.local())
    });
    for (rank, (gathered, same, local)) in found.into_iter().enumerate() {
        assert_eq!(gathered, [vec![], vec![1], vec![2, 2], vec![3, 3, 3]]);
        assert!(same && local == rank, "all are on one machine");
    }
}

#[test]
fn work_is_done_once_and_comes_in_order() {
    for (size, count) in [(1, 3), (2, 7), (3, 2), (4, 0), (4, 13)] {
        let found = together(size, |ranks| {
            let (mut done, mut taken) = (Vec::new(), Vec::new());
            let work = |item: usize| {
                done.push(item);
                // The ranks do not finish in the order of the items.
                std::thread::sleep(Duration::from_millis(((item * 7) % 3) as u64));
                Ok(item * item)
            };
            ranks
                .in_turn(count, work, |item, result: usize| {
                    taken.push((item, result));
                    Ok(())
                })
                .unwrap();
            let all = ranks.all(count, |item| Ok(format!("{item}"))).unwrap();
            let joined = ranks.joined(vec![ranks.rank(); ranks.rank()]).unwrap();
            let told = ranks.told(|| Ok(vec![0.1, -0.0])).unwrap();
            ranks.leave().unwrap();
            (done, taken, all, joined, told)
        });
        let mut done: Vec<usize> = found.iter().flat_map(|rank| rank.0.clone()).collect();
        done.sort_unstable();
        assert_eq!(done, (0..count).collect::<Vec<_>>(), "{size} ranks");
        assert_eq!(found[0].1, (0..count).map(|item| (item, item * item)).collect::<Vec<_>>());
        assert!(found[1..].iter().all(|rank| rank.1.is_empty()), "only rank 0 receives");
        for (_, _, all, joined, told) in &found {
            assert_eq!(*all, (0..count).map(|item| format!("{item}")).collect::<Vec<_>>());
            assert_eq!(*joined, (0..size).flat_map(|rank| vec![rank; rank]).collect::<Vec<_>>());
            assert!(told[0] == 0.1 && told[1] == 0.0 && f64::is_sign_negative(told[1]));
        }
    }
}

#[test]
fn work_that_fails_on_one_rank_ends_all() {
    for failing in 0..3 {
        let found = together(3, |ranks| {
            let work = |item: usize| match item == 3 + failing {
                true => Err(Error::Data(format!("record {item} is empty"))),
                false => Ok(item),
            };
            let error = ranks.in_turn(9, work, |_, _: usize| Ok(())).and_then(|()| ranks.meet()).unwrap_err();
            if ranks.rank() == failing {
                ranks.fail(&error);
            }
            error.to_string()
        });
        for (rank, text) in found.iter().enumerate() {
            assert!(text.ends_with(&format!("record {} is empty", 3 + failing)), "rank {rank}: {text}");
            assert_eq!(text.starts_with(&format!("rank {failing} of 3 (")), rank != failing, "{text}");
        }
    }
}

#[test]
fn four_ranks_see_each_of_a_million_pairs_once_in_an_epoch() {
    // Every rank cuts the same batches of a step among all by their tokens.
    let (pairs, ranks, accumulation) = (1_000_000, 4, 16);
    let tokens = |pair: usize| 20 + pair * 7919 % 61;
    let mut samplers = vec![crate::data::Sampler::new(pairs, 2, Some(5)).unwrap(); ranks];
    let (mut seen, mut most) = (vec![0u8; pairs], [0usize; 2]);
    while samplers[0].state().epoch == 0 {
        for (rank, sampler) in samplers.iter_mut().enumerate() {
            let batches = sampler.next_step(accumulation);
            let sizes: Vec<usize> =
                batches.iter().map(|batch| batch.iter().map(|pair| tokens(*pair)).sum()).collect();
            let own = shares(&sizes, ranks)[rank].clone();
            most[0] = most[0].max(batches[own.clone()].iter().map(Vec::len).sum());
            most[1] = most[1].max(own.len());
            batches[own].iter().flatten().for_each(|pair| seen[*pair] += 1);
        }
    }
    assert!(seen.iter().all(|times| *times == 1));
    assert!(most[0] < 16 && most[1] < 8, "a rank has {most:?} pairs and micro-batches of a step");
}

#[test]
fn a_rank_that_differs_is_named_on_every_rank() {
    let found = together(3, |ranks| {
        let own = if ranks.rank() == 2 { "b: 1\nlora: 8" } else { "b: 1\nlora: 4" };
        let agreed = ranks.agree(&[("its version", "1".into()), ("its settings", own.into())]);
        let text = agreed.unwrap_err().to_string();
        ranks.leave().unwrap();
        text
    });
    for text in found {
        assert!(text.starts_with("rank 2 of 3 (host "), "{text}");
        assert!(text.contains("differs from rank 0 in its settings: lora: 8 instead of lora: 4"), "{text}");
    }
}

#[test]
fn ranks_that_run_different_commands_are_told_so() {
    let found = together(2, |ranks| match ranks.rank() {
        0 => ranks.broadcast(vec![1]).map(|_| String::new()).unwrap(),
        _ => ranks.meet().unwrap_err().to_string(),
    });
    let words = "(it sends what rank 0 tells all, and what all compare is due); start every rank with the same program";
    assert!(
        found[1].starts_with("rank 0 is at another place of the run") && found[1].contains(words),
        "{found:?}"
    );
}

#[test]
fn ranks_begin_to_work_when_they_have_agreed() {
    use std::sync::atomic::Ordering;

    let found = together(2, |ranks| {
        let begun = ranks.has_begun();
        let facts = |own: usize| [("its number", own.to_string())];
        let compared = (ranks.compare(&facts(0)).is_ok(), begun.load(Ordering::Relaxed));
        let differs = (ranks.agree(&facts(ranks.rank())).is_ok(), begun.load(Ordering::Relaxed));
        let agreed = (ranks.agree(&facts(0)).is_ok(), begun.load(Ordering::Relaxed));
        ranks.leave().unwrap();
        [compared, differs, agreed]
    });
    for found in found {
        assert_eq!(found, [(true, false), (false, false), (true, true)]);
    }
}

#[test]
fn ranks_of_two_versions_do_not_begin() {
    let wires = Channels::connected(3);
    let found: Vec<String> = std::thread::scope(|scope| {
        let of = |(rank, wire): (usize, Channels)| {
            scope.spawn(move || {
                let post =
                    Post::start(move || Ok((Box::new(wire) as Box<dyn wire::Wire>, rank, 3)), PATIENCE)
                        .unwrap();
                let version = if rank == 1 { "0.9.0" } else { "0.8.1" };
                Ranks::connected(post, version).unwrap_err().to_string()
            })
        };
        let threads: Vec<_> = wires.into_iter().enumerate().map(of).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for text in found {
        assert!(text.starts_with("rank 1 of 3 (host "), "{text}");
        assert!(text.contains("is version 0.9.0 of the program, and rank 0 is version 0.8.1"), "{text}");
    }
}

#[test]
fn ranks_are_named_where_something_holds() {
    let found = together(3, |ranks| {
        let names = ranks.named_where(ranks.rank() != 1).unwrap();
        ranks.leave().unwrap();
        names
    });
    for names in found {
        assert_eq!(names.len(), 2);
        assert!(names[0].starts_with("rank 0 of 3 (") && names[1].starts_with("rank 2 of 3 ("), "{names:?}");
    }
}

#[test]
fn results_of_any_length_come_to_every_rank_in_order() {
    // More than a piece of a rank, none of another.
    let words = |item: usize| if item == 1 { "x".repeat(3_000_000) } else { item.to_string() };
    for count in [0, 2, 7] {
        let found = together(3, move |ranks| {
            let all = ranks.all(count, |item| Ok(words(item))).unwrap();
            ranks.leave().unwrap();
            all
        });
        let expected: Vec<String> = (0..count).map(words).collect();
        assert!(found.iter().all(|all| *all == expected), "{count}");
    }
}

#[test]
fn a_rank_that_fails_ends_all_with_its_words() {
    let found = together(3, |ranks| match ranks.rank() {
        1 => {
            ranks.fail(&Error::Data("pairs.jsonl is empty".into()));
            String::new()
        }
        _ => ranks.meet().unwrap_err().to_string(),
    });
    for text in [&found[0], &found[2]] {
        assert!(
            text.starts_with("rank 1 of 3 (") && text.ends_with("has failed: pairs.jsonl is empty"),
            "{text}"
        );
    }
}

#[test]
fn a_rank_that_ends_early_is_named() {
    let found = together(3, |ranks| match ranks.rank() {
        2 => String::new(),
        _ => ranks.meet().unwrap_err().to_string(),
    });
    for text in &found[..2] {
        assert!(text.starts_with("rank 2 of 3 (") && text.ends_with("it ended before the others"), "{text}");
    }
}

/// A wire that loses everything after a while, as a cut network or a stopped process does.
struct Cut(Channels, Instant);

impl wire::Wire for Cut {
    fn send(&mut self, to: usize, frame: Vec<u8>) -> Result<(), wire::Lost> {
        if Instant::now() < self.1 { self.0.send(to, frame) } else { Ok(()) }
    }
    fn poll(&mut self) -> Result<Option<(usize, Vec<u8>)>, wire::Lost> {
        let found = self.0.poll()?;
        Ok(found.filter(|_| Instant::now() < self.1))
    }
    fn is_flushed(&self) -> bool {
        true
    }
    fn close(&mut self, _: bool) {}
}

#[test]
fn a_silent_rank_is_given_up_after_the_patience_and_not_before() {
    // Long enough for threads that wait for a processor.
    let patience = Duration::from_secs(4);
    let start = Instant::now();
    let cut = start + Duration::from_secs(1);
    let wires = Channels::connected(3);
    let found: Vec<(String, Duration, Post)> = std::thread::scope(|scope| {
        let of = |(rank, wire): (usize, Channels)| {
            scope.spawn(move || {
                let joined = move || {
                    let wire: Box<dyn wire::Wire> =
                        if rank == 2 { Box::new(Cut(wire, cut)) } else { Box::new(wire) };
                    Ok((wire, rank, 3))
                };
                let post = Post::start(joined, patience).unwrap();
                let ended = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
                let told = ended.clone();
                post.on_failure(Box::new(move |why| *told.lock().unwrap() = why.to_string()));
                // All are busy, as in a long step: nobody receives.
                let text = post.receive(if rank == 0 { 1 } else { 0 }, 0).unwrap_err().to_string();
                // The thread stays, as that of a rank whose network is cut.
                (text, start.elapsed(), post)
            })
        };
        let threads: Vec<_> = wires.into_iter().enumerate().map(of).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (text, after, _) in &found[..2] {
        assert!(text.starts_with("rank 2 of 3 has given no sign of life"), "{text}");
        assert!(*after > patience && *after < Duration::from_secs(20), "{after:?}");
    }
    // Either of the others may have been heard of last.
    let of_cut = &found[2].0;
    assert!(["rank 0", "rank 1"].iter().any(|rank| of_cut.starts_with(rank)), "{of_cut}");
    assert!(of_cut.contains("of 3 has given no sign of life"), "{of_cut}");
}

#[test]
fn a_busy_process_is_ended() {
    let (told, ended) = std::sync::mpsc::channel();
    let mut wires = Channels::connected(2).into_iter();
    let (first, second) = (wires.next().unwrap(), wires.next().unwrap());
    let post = Post::start(move || Ok((Box::new(first) as Box<dyn wire::Wire>, 0, 2)), PATIENCE).unwrap();
    post.on_failure(Box::new(move |why| told.send(why.to_string()).unwrap()));
    let other = Post::start(move || Ok((Box::new(second) as Box<dyn wire::Wire>, 1, 2)), PATIENCE).unwrap();
    other.fail("no space left");
    let text = ended.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(text, "rank 1 of 2 has failed: no space left");
}
