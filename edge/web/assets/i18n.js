// Korean and English. Korean is the default; the choice is kept.

const KEY = "boxoffice.language";

const TEXTS = {
  ko: {
    skip_to_content: "본문으로 건너뛰기",
    sign_out: "로그아웃",
    other_language: "English",
    progress: "예매 단계",
    step_event: "공연", step_line: "대기", step_seats: "좌석", step_pay: "결제", step_ticket: "티켓",
    events: "예매할 공연을 고르세요",
    no_events: "지금 판매 중인 공연이 없습니다.",
    opens_at: "판매 시작", from_price: "부터", seats: "석", choose: "예매하기",
    account_title: "로그인하고 줄을 서세요",
    account_lead: "계정 하나에 자리 하나. 앱을 닫아도 순서는 그대로입니다.",
    email: "이메일", password: "비밀번호 (10자 이상)", sign_up: "가입하기", log_in: "로그인",
    have_account: "이미 계정이 있어요", no_account: "계정이 없어요",
    join: "대기열에 서기",
    line_title: "순서를 기다리고 있어요",
    line_lead: "이 화면을 닫아도 순서는 사라지지 않습니다.",
    position: "내 순서", ahead: "내 앞", people: "명", waiting: "전체 대기", seats_left: "남은 좌석",
    wait_range: "예상 대기", soon: "곧", minutes: (a, b) => (a === b ? `약 ${b}분` : `${a}–${b}분`), minutes_at_most: (b) => `${b}분 이내`, after_pause: (range) => (range === "–" ? range : `재개 후 ${range}`), hours: (a, b) => (a === b ? `약 ${b}시간` : `${a}–${b}시간`),
    leave: "줄에서 나가기",
    not_open_yet: "아직 판매 전입니다. 시작되면 순서대로 입장합니다.",
    held: "운영자가 잠시 입장을 멈췄습니다. 순서는 그대로입니다.",
    your_turn: "차례가 되었습니다!",
    claim_lead: "시간 안에 입장해 주세요.",
    book_now: "지금 예매하기",
    missed: "입장 시간이 지났습니다", done: "이 순서로 예매를 마쳤어요", left: "줄에서 나왔어요", join_again: "다시 줄 서기",
    join_again_lead: "다시 줄을 서면 맨 뒤에서 시작합니다.",
    draw_title: "순서 추첨에 참여하고 있어요",
    draw_lead: "판매가 시작되면 추첨으로 모두의 순서를 정합니다. 먼저 왔든 나중에 왔든 기회는 같습니다.",
    entrants: "추첨 참여 인원", opens_in: "시작까지",
    drawing_title: "순서를 추첨하고 있어요", drawing_lead: "곧 순서를 알려 드립니다.",
    restoring: "대기열을 복구하고 있습니다. 순서는 그대로이고, 곧 다시 입장합니다.",
    again_title: "호출을 놓치셨어요", again_in: "다시 부를 때까지",
    again_lead: (at) => `괜찮아요. ${at}에 한 번 더 부릅니다. 지금 바로 불러 달라고 할 수도 있습니다.`,
    call_me_now: "지금 불러 주세요",
    lane: (name) => `전용 줄: ${name}`,
    odds: (a, b) => `지금까지의 판매로 보면, 차례가 왔을 때 좌석이 남아 있을 가능성은 ${b}번 중 ${a}번쯤입니다. 기다려도 되고, 줄에서 나가도 됩니다.`,
    odds_slim: "지금까지의 판매로 보면, 차례가 왔을 때 좌석이 남아 있을 가능성은 10번 중 1번이 안 됩니다. 기다려도 되고, 줄에서 나가도 됩니다.",
    proving: "줄에 들어가는 중이에요", proving_lead: "자동 프로그램을 막기 위해 이 기기가 짧은 계산을 하고 있습니다. 몇 초면 됩니다.",
    crowded: "들어오는 사람이 많아요", crowded_lead: "같은 네트워크에서 많은 분이 한꺼번에 들어오고 있습니다. 그대로 두시면 자동으로 다시 시도합니다.", retry_in: "다시 시도까지",
    verify: "추첨이 공정했는지 확인하는 방법",
    verify_open: "추첨의 씨앗값은 이미 정해져 있고, 아래가 그 해시입니다. 판매가 시작되면 씨앗값을 공개합니다. 이 브라우저가 해시를 저장해 두었다가 그때 비교합니다. 그러면 아무도 순서를 바꾸지 않았다는 것을 누구나 확인할 수 있습니다.",
    verify_held: "추첨이 끝났습니다. 아래 값으로 누구나 모두의 순서를 다시 계산할 수 있습니다.",
    verify_late: "판매가 시작된 뒤에 온 사람은 추첨한 사람들 뒤에 온 순서대로 섭니다.",
    verify_none: "추첨에 참여한 사람이 없어, 모두 온 순서대로 섰습니다.",
    verify_checked: "✓ 이 브라우저가 확인했습니다. 씨앗값은 해시와 맞고, 추첨 열쇠는 씨앗값과 참여자 목록에서 나왔습니다.",
    verify_mine: "✓ 내 번호도 추첨 열쇠에서 나왔습니다.",
    verify_not_mine: "✗ 내 번호는 추첨 열쇠에서 나온 번호가 아닙니다.",
    verify_wrong: "✗ 공개된 값들이 서로 맞지 않습니다. 설명을 따라 직접 계산해 보세요.",
    verify_kept: "✓ 이 브라우저가 판매 시작 전에 저장해 둔 해시와 같습니다.",
    verify_unkept: "판매 시작 전에 약속한 해시와는 비교하지 못했습니다. 이 브라우저에는 그때 저장한 해시가 없습니다.",
    verify_broken: "✗ 이 브라우저가 먼저 저장해 둔 해시와 다릅니다. 약속한 씨앗값이 바뀌었습니다.",
    kept_commitment: "이 브라우저가 저장해 둔 해시",
    verify_unchecked: "이 브라우저에서는 확인하지 못했습니다. 설명을 따라 직접 계산해 보세요.",
    commitment: "미리 공개한 해시 (씨앗값의 SHA-256)", seed: "씨앗값", list_digest: "참여자 목록의 해시", draw_key: "추첨 열쇠", closed_at: "목록 마감",
    own_number: "내 번호 (작을수록 앞)",
    receipt: "내 영수증 내려받기", entrant_list: "참여자 목록", verify_docs: "계산 방법",
    sold_out: "매진되었습니다", sold_out_lead: "남은 좌석이 없습니다. 다른 공연을 살펴보세요.", back: "공연 목록으로",
    closed: "판매가 끝났습니다", closed_lead: "다른 공연을 살펴보세요.",
    seats_title: "좌석을 고르세요",
    best: "알아서 좋은 자리로", quantity: "매수", section: "구역", any_section: "아무 구역이나", find: "자리 잡기",
    on_map: "직접 고르기", standing: "스탠딩", row: (name) => `${name}열`, seat: (section, row, number) => `${section} ${row}열 ${number}번`, taken: "선택 불가", chosen: "선택함", free: "선택 가능",
    stage: "무대",
    hold_seats: (n) => (n ? `${n}석 예매하기` : "좌석을 선택하세요"),
    admission_left: "입장 유효 시간",
    too_many: (n) => `한 사람당 ${n}매까지 살 수 있습니다.`,
    holding: "좌석을 확정하는 중…",
    pay_title: "결제",
    pay_lead: "시간 안에 결제하면 이 좌석은 당신의 것입니다.",
    time_left: "남은 시간", total: "합계", card: "시험용 카드",
    card_approve: "승인되는 카드", card_decline: "거절되는 카드", card_late: "승인이 늦게 오는 카드", card_timeout: "응답이 없는 카드",
    pay: (money) => `${money} 결제하기`, cancel: "예매 취소",
    settling: "카드사 응답을 기다리고 있습니다. 이 화면을 닫아도 결과는 바뀌지 않습니다.",
    ticket_title: "예매가 완료되었습니다",
    ticket_lead: "즐거운 관람 되세요.",
    booking_number: "예매 번호",
    EXPIRED: "결제 시간이 지나 좌석이 풀렸습니다.", REJECTED: "간발의 차로 다른 분이 먼저 예매했습니다. 다시 골라 주세요.",
    CANCELLED: "예매를 취소했습니다.", REFUNDED: "좌석을 잡을 수 없어 전액 환불했습니다.",
    choose_again: "다시 고르기",
    EMAIL_TAKEN: "이미 가입된 이메일입니다. 로그인해 주세요.",
    BAD_CREDENTIALS: "이메일 또는 비밀번호가 맞지 않습니다.",
    LANE_PASS_INVALID: "전용 줄 이용권을 쓸 수 없어 일반 줄에 섰습니다. 로그인한 계정이 이용권의 계정인지 확인해 주세요.",
    PLACE_NOT_READY: "입장 시간이 지났거나 아직 차례가 아닙니다.",
    RATE_LIMITED: "요청이 너무 많습니다. 잠시 후 다시 시도해 주세요.",
    SEATS_TAKEN: "방금 다른 분이 선택한 좌석입니다. 다른 좌석을 골라 주세요.",
    NO_ADJACENT_SEATS: "붙어 있는 좌석이 없습니다. 매수를 줄여 보세요.",
    SOLD_OUT: "지금은 남은 좌석이 없습니다. 결제되지 않은 좌석이 다시 풀릴 수 있습니다.",
    TICKET_LIMIT: "살 수 있는 매수를 넘었습니다.",
    ADMISSION_INVALID: "입장 시간이 끝났습니다. 다시 줄을 서 주세요.",
    PAYMENT_DECLINED: "카드가 거절되었습니다. 다른 카드로 결제해 주세요.",
    BOOKING_EXPIRED: "결제 시간이 지났습니다.",
    INVALID_ARGUMENT: "입력한 내용을 확인해 주세요.",
    SESSION_ENDED: "다시 로그인해 주세요.", UNAUTHENTICATED: "로그인해 주세요.",
    UNAVAILABLE: "연결이 잠시 불안정합니다. 잠시 후 다시 시도해 주세요. 순서와 좌석은 그대로입니다.",
    other_error: "문제가 생겼습니다. 잠시 후 다시 시도해 주세요.",
  },
  en: {
    skip_to_content: "Skip to content",
    sign_out: "Sign out",
    other_language: "한국어",
    progress: "Steps",
    step_event: "Event", step_line: "Line", step_seats: "Seats", step_pay: "Payment", step_ticket: "Ticket",
    events: "Choose an event",
    no_events: "Nothing is on sale right now.",
    opens_at: "Sale opens", from_price: "from", seats: "seats", choose: "Get tickets",
    account_title: "Sign in to stand in line",
    account_lead: "One place per account. It stays yours when you close the app.",
    email: "E-mail", password: "Password (10 characters or more)", sign_up: "Sign up", log_in: "Log in",
    have_account: "I have an account", no_account: "I need an account",
    join: "Join the line",
    line_title: "You are in line",
    line_lead: "You keep your place when you close this page.",
    position: "Your place", ahead: "Ahead of you", people: "", waiting: "In line", seats_left: "Seats left",
    wait_range: "Expected wait", soon: "any moment", minutes: (a, b) => (a === b ? `about ${b} min` : `${a}–${b} min`), minutes_at_most: (b) => `up to ${b} min`, after_pause: (range) => (range === "–" ? range : `${range} from then on`), hours: (a, b) => (a === b ? `about ${b} h` : `${a}–${b} h`),
    leave: "Leave the line",
    not_open_yet: "The sale has not opened yet. People are let in in order once it does.",
    held: "The operator has paused admission. You keep your place.",
    your_turn: "It is your turn!",
    claim_lead: "Come in before the time is over.",
    book_now: "Book now",
    missed: "The time to come in is over", done: "You have booked with this place", left: "You have left the line", join_again: "Join again",
    join_again_lead: "Joining again starts at the end of the line.",
    draw_title: "You take part in the draw",
    draw_lead: "When the sale opens, a draw puts everyone in order. Whether you came early or late, your chance is the same.",
    entrants: "People in the draw", opens_in: "Opens in",
    drawing_title: "The draw is being held", drawing_lead: "Your place appears in a moment.",
    restoring: "The line is being restored. You keep your place, and people are let in again soon.",
    again_title: "You missed your call", again_in: "Called again in",
    again_lead: (at) => `Never mind: we will call you once more at ${at}. Or ask to be called right now.`,
    call_me_now: "Call me now",
    lane: (name) => `Lane: ${name}`,
    odds: (a, b) => `Judging by the sale so far, there is about a ${a} in ${b} chance that seats are left when it is your turn. You can wait, or leave the line.`,
    odds_slim: "Judging by the sale so far, there is less than a 1 in 10 chance that seats are left when it is your turn. You can wait, or leave the line.",
    proving: "Letting you into the line", proving_lead: "To keep bots out, this device does a short calculation. It takes a few seconds.",
    crowded: "Many people are joining", crowded_lead: "Many people on your network are joining at once. Keep this page open: it tries again by itself.", retry_in: "Trying again in",
    verify: "How to check that the draw was fair",
    verify_open: "The seed of the draw is fixed already, and this is its hash. When the sale opens the seed is published. This browser keeps the hash, and compares it then. Then anyone can check that nobody changed the order.",
    verify_held: "The draw has been held. With these values anyone can compute everybody's place again.",
    verify_late: "Who came after the opening stands behind the draw, in the order of arrival.",
    verify_none: "Nobody took part in a draw: everyone stands in the order of arrival.",
    verify_checked: "✓ Checked in this browser: the seed matches the hash, and the key of the draw follows from the seed and the list.",
    verify_mine: "✓ Your own number follows from the key, too.",
    verify_not_mine: "✗ Your own number does not follow from the key.",
    verify_wrong: "✗ What is published does not fit together. Follow the description and compute it yourself.",
    verify_kept: "✓ The hash is the one that this browser kept before the sale opened.",
    verify_unkept: "Not checked against what was promised before the sale opened: this browser kept no hash then.",
    verify_broken: "✗ This is not the hash that this browser kept first. The seed that was promised has been exchanged.",
    kept_commitment: "Kept in this browser",
    verify_unchecked: "This browser could not check it. Follow the description and compute it yourself.",
    commitment: "Published before (SHA-256 of the seed)", seed: "Seed", list_digest: "Hash of the list of people", draw_key: "Key of the draw", closed_at: "List closed",
    own_number: "Your number (smaller is earlier)",
    receipt: "Download my receipt", entrant_list: "List of people", verify_docs: "How to compute it",
    sold_out: "Sold out", sold_out_lead: "No seat is left. Have a look at the other events.", back: "All events",
    closed: "The sale is over", closed_lead: "Have a look at the other events.",
    seats_title: "Choose your seats",
    best: "Best available", quantity: "Tickets", section: "Section", any_section: "Any section", find: "Find seats",
    on_map: "Choose on the map", standing: "Standing", row: (name) => `Row ${name}`, seat: (section, row, number) => `${section}, row ${row}, seat ${number}`, taken: "taken", chosen: "chosen", free: "free",
    stage: "Stage",
    hold_seats: (n) => (n ? `Reserve ${n} ${n === 1 ? "seat" : "seats"}` : "Choose seats"),
    admission_left: "Time inside",
    too_many: (n) => `One person can buy up to ${n} tickets.`,
    holding: "Making the seats yours…",
    pay_title: "Payment",
    pay_lead: "Pay in time and these seats are yours.",
    time_left: "Time left", total: "Total", card: "Test card",
    card_approve: "A card that is approved", card_decline: "A card that is declined", card_late: "A card that is approved late", card_timeout: "A card that never answers",
    pay: (money) => `Pay ${money}`, cancel: "Cancel booking",
    settling: "Waiting for the card company. Closing this page does not change the outcome.",
    ticket_title: "Your booking is confirmed",
    ticket_lead: "Enjoy the show.",
    booking_number: "Booking",
    EXPIRED: "The time to pay is over and the seats were released.", REJECTED: "Someone was a moment faster. Please choose again.",
    CANCELLED: "The booking was cancelled.", REFUNDED: "The seats could not be kept; you got all of your money back.",
    choose_again: "Choose again",
    EMAIL_TAKEN: "This address has an account. Please log in.",
    BAD_CREDENTIALS: "E-mail address or password is wrong.",
    LANE_PASS_INVALID: "The pass does not open its lane for this account, so you joined the general line.",
    PLACE_NOT_READY: "The time to come in is over, or it is not your turn yet.",
    RATE_LIMITED: "Too many requests. Please try again in a moment.",
    SEATS_TAKEN: "Someone just took one of these seats. Please choose others.",
    NO_ADJACENT_SEATS: "No seats next to each other are left. Try fewer.",
    SOLD_OUT: "No seat is left right now. Unpaid seats may come back.",
    TICKET_LIMIT: "That is more tickets than one person may buy.",
    ADMISSION_INVALID: "Your time inside is over. Please join the line again.",
    PAYMENT_DECLINED: "The card was declined. Please try another one.",
    BOOKING_EXPIRED: "The time to pay is over.",
    INVALID_ARGUMENT: "Please check what you entered.",
    SESSION_ENDED: "Please log in again.", UNAUTHENTICATED: "Please log in.",
    UNAVAILABLE: "The connection is unsteady. Please try again in a moment; your place and seats are kept.",
    other_error: "Something went wrong. Please try again in a moment.",
  },
};

let language = localStorage.getItem(KEY) || (navigator.language.startsWith("en") ? "en" : "ko");

/** The language in use, "ko" or "en". */
export function currentLanguage() {
  return language;
}

/** Changes to the other language. */
export function switchLanguage() {
  language = language === "ko" ? "en" : "ko";
  localStorage.setItem(KEY, language);
}

/** A text, or what a text function makes of the values. */
export function t(name, ...values) {
  const text = TEXTS[language][name] ?? name;
  return typeof text === "function" ? text(...values) : text;
}

/** What to tell a person about a problem. */
export function problemText(problem) {
  return TEXTS[language][problem.code] ?? t("other_error");
}

const MINOR_DIGITS = { KRW: 0, JPY: 0 };

/** {amount: 55000, currency: "KRW"} → "₩55,000". */
export function money({ amount, currency }) {
  const digits = MINOR_DIGITS[currency] ?? 2;
  return new Intl.NumberFormat(language, { style: "currency", currency, minimumFractionDigits: digits })
    .format(amount / 10 ** digits);
}

/** An RFC 3339 time for people. */
export function when(time) {
  return new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" }).format(new Date(time));
}

/** The time of day of an RFC 3339 time. */
export function time(moment) {
  return new Intl.DateTimeFormat(language, { timeStyle: "short" }).format(new Date(moment));
}

/** 12345 → "12,345". */
export function count(number) {
  return new Intl.NumberFormat(language).format(number);
}
