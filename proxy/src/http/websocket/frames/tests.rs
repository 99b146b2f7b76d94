use super::*;

/// A frame as a client sends it; as a server, without the mask.
fn frame(first: u8, payload: usize, sender: Sender) -> Vec<u8> {
    let mask = if sender == Sender::Client { 0x80 } else { 0 };
    let mut frame = vec![first];
    match payload {
        0..=125 => frame.push(mask | u8::try_from(payload).unwrap()),
        126..=0xffff => {
            frame.push(mask | 126);
            frame.extend(u16::try_from(payload).unwrap().to_be_bytes());
        }
        _ => {
            frame.push(mask | 127);
            frame.extend(u64::try_from(payload).unwrap().to_be_bytes());
        }
    }
    if sender == Sender::Client {
        frame.extend([1, 2, 3, 4]);
    }
    // Looks like the header of another frame, of either kind.
    frame.extend([0x8a, 0x80].iter().cycle().take(payload));
    frame
}

fn good(boundary: Option<usize>, bytes: usize) -> Stretch {
    Stretch { good: bytes, boundary, malformed: false }
}

#[test]
fn a_boundary_is_where_a_frame_ends_and_nowhere_else() {
    for sender in [Sender::Client, Sender::Server] {
        for payload in [0, 1, 125, 126, 127, 65535, 65536, 100_000] {
            let text = frame(0x81, payload, sender);
            let mut frames = Frames::of(sender, false);
            assert_eq!(frames.follow(&text), good(Some(text.len()), text.len()), "{sender:?} {payload}");
            assert_eq!(frames.follow(&text[..1]), good(Some(0), 1));
            let (inside, last) = text[1..].split_at(text.len() - 2);
            assert_eq!(frames.follow(inside), good(None, inside.len()));
            assert_eq!(frames.follow(last), good(Some(1), 1));
        }
    }
}

/// Everything that is legal, in every split: what is said of the parts is what is said of the whole.
#[test]
fn in_21_how_the_bytes_are_split_changes_nothing() {
    for sender in [Sender::Client, Sender::Server] {
        let parts = [
            frame(0x01, 3, sender),
            frame(0x89, 125, sender),
            frame(0x00, 0, sender),
            frame(0x80, 200, sender),
            frame(0x82, 70_000, sender),
            frame(0x8a, 0, sender),
            frame(0x88, 2, sender),
        ];
        let mut ends = vec![0];
        for part in &parts {
            ends.push(ends.last().unwrap() + part.len());
        }
        let all = parts.concat();
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        for most in [1, 2, 3, 7, 64, 5000, 80_000] {
            let mut frames = Frames::of(sender, false);
            let mut at = 0;
            while at < all.len() {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let end = (at + 1 + usize::try_from(random % most).unwrap()).min(all.len());
                let last = ends.iter().rev().find(|&&boundary| boundary >= at && boundary <= end);
                let expected = good(last.map(|boundary| boundary - at), end - at);
                assert_eq!(frames.follow(&all[at..end]), expected, "{sender:?} {at}..{end}");
                at = end;
                assert_eq!(frames.is_closed(), at == all.len());
            }
            assert_eq!(frames.follow(&all), good(Some(0), 0), "nothing goes on after Close");
        }
    }
}

/// Whatever comes, in whatever pieces: it is found malformed at the same frame, and nothing of that frame's piece goes on.
#[test]
fn in_21_noise_is_found_malformed_at_the_same_byte_however_it_is_split() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random.to_be_bytes()
    };
    let mut found = 0;
    for round in 0..2000 {
        let sender = if round % 2 == 0 { Sender::Client } else { Sender::Server };
        // Half of it begins well.
        let mut noise = if round % 4 < 2 { frame(0x82, round % 150, sender) } else { Vec::new() };
        (0..8).for_each(|_| noise.extend(next()));
        let whole = Frames::of(sender, round % 3 == 0).follow(&noise);
        found += usize::from(whole.malformed);
        let mut frames = Frames::of(sender, round % 3 == 0);
        let (mut passed, mut malformed) = (0, false);
        for byte in &noise {
            let stretch = frames.follow(std::slice::from_ref(byte));
            passed += stretch.good;
            if stretch.malformed {
                malformed = true;
                break;
            }
        }
        assert_eq!(malformed, whole.malformed, "{noise:?}");
        // Byte by byte, the beginning of a header has gone before it turns out to be none.
        assert!(passed >= whole.good && passed - whole.good <= 10, "{passed} {whole:?}");
    }
    assert!(found > 500, "{found}");
}

#[test]
fn in_21_what_no_endpoint_may_send_is_malformed() {
    use Sender::{Client, Server};
    let malformed = |bytes: &[u8], sender, extended| {
        let before = frame(0x81, 5, sender);
        let stretch = Frames::of(sender, extended).follow(&[&before, bytes].concat());
        if stretch.malformed {
            assert_eq!((stretch.good, stretch.boundary), (before.len(), Some(before.len())));
        }
        stretch.malformed
    };
    let cases: [(&str, &[u8], Sender, bool); 8] = [
        ("a server masks", &[0x81, 0x80], Server, true),
        ("a client does not mask", &[0x81, 0x00], Client, true),
        ("a long ping", &[0x89, 126], Server, true),
        ("a ping in parts", &[0x09, 0], Server, true),
        ("a length beyond 2^63", &[0x82, 127, 0x80], Server, true),
        ("a reserved bit", &[0xc1, 0], Server, false),
        ("a reserved opcode", &[0x83, 0], Server, false),
        ("a reserved control opcode", &[0x8b, 0], Server, false),
    ];
    for (what, bytes, sender, whatever) in cases {
        assert!(malformed(bytes, sender, false), "{what}");
        assert_eq!(malformed(bytes, sender, true), whatever, "{what}, with extensions");
    }
    assert!(!malformed(&[0x82, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], Server, false));
}

#[test]
fn a_close_frame_of_ours_is_in_order() {
    let plain = close(1008, "expired", None);
    assert_eq!(plain, [&[0x88, 9, 0x03, 0xf0], &b"expired"[..]].concat());
    let masked = close(1008, "expired", Some([9, 8, 7, 6]));
    assert_eq!(masked[..6], [0x88, 0x89, 9, 8, 7, 6]);
    let unmasked: Vec<u8> = masked[6..].iter().zip([9, 8, 7, 6].iter().cycle()).map(|(a, b)| a ^ b).collect();
    assert_eq!(unmasked, plain[2..]);
    for (frame, sender) in [
        (plain, Sender::Server),
        (masked, Sender::Client),
        (close(1001, &"x".repeat(200), None), Sender::Server),
        (close(1001, "", Some([0; 4])), Sender::Client),
    ] {
        let mut frames = Frames::of(sender, false);
        assert_eq!(frames.follow(&frame), good(Some(frame.len()), frame.len()));
        assert!(frames.is_closed());
    }
}
