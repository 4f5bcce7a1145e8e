# ruff: noqa: RUF001 - letters of languages that look like Latin ones
"""The text that WhatsApp itself writes into an exported chat.

Owns: the marks of media, edited messages and polls, which are alike in all languages, and the words for deleted
messages, calls and notices in some. Knows no lines or dates.
"""

import re
from collections import Counter
from collections.abc import Iterable

_MARK = "\u200e"  # on an iPhone, it comes before WhatsApp's own text
# The others enclose phone numbers and mentions, or precede text from the right to the left.
_MARKS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")

_KINDS = (
    "image|video|audio|sticker|GIF|document|contact card|video note|video message|voice message"
    "|Bild|Dokument|Kontaktkarte|Videonachricht|Sprachnachricht"
    "|imagen|vídeo|documento|tarjeta de contacto|vidéo|carte de contact|imagem|áudio|figurinha|cartão de contato"
    "|immagine|scheda contatto|afbeelding"
)
_OMITTED = (
    "omitted|ausgeschlossen|weggelassen|omitid[oa]s?|omis|omise|omises|absente?|ocult[oa]s?|ocultad[oa]s?"
    "|omess[oaie]|weggelaten"
)
_ATTACHED = "attached|Anhang|adjunto|pièce jointe|anexado|allegato|bijgevoegd"
_FILE_ATTACHED = (
    "file attached|Datei angehängt|archivo adjunto|fichier joint|arquivo anexado|file allegato|bestand bijgevoegd"
)

_IN_BRACKETS = (
    rf"<(?:[^<>\n]{{1,40}}\s(?:{_OMITTED})|(?:{_ATTACHED})\s?:\s[^<>\n]+"
    r"|[^<>\n:\uff1a]{2,30}[:\uff1a]\s?[^<>\n]+\.\w{2,5})>"
)
# Android writes this in place of any medium, in the phone's language and in brackets that nobody types.
_PLACEHOLDER = r"(?:<[^<>\n]{2,40}>|\u2039[^\u2039\u203a\n]{2,40}\u203a|null)\s*\Z"
_IN_WORDS = rf"(?:{_KINDS})\s(?:{_OMITTED})"
# WhatsApp's own names of files, with words in any language, or another name with known words.
_FILE = (
    r"(?:[A-Z]{3}-\d{8}-WA\d{4,}\.\w{2,5}(?:\s\([^()\n]{2,40}\))?"
    rf"|[^\n]+\.\w{{2,5}}\s\((?:{_FILE_ATTACHED})\))"
)
_WORDS_AFTER = r"\.\w{2,5}\s(?P<words>\([^()\n]{2,40}\))\Z"
_OWN_FILE = re.compile(rf"[A-Z]{{3}}-\d{{8}}-WA\d{{4,}}{_WORDS_AFTER}")
_OTHER_FILE = re.compile(rf"[^\n]+{_WORDS_AFTER}")
# A caption may follow the medium, or precede it if the medium has WhatsApp's mark.
_MEDIUM = re.compile(
    rf"\A{_MARK}*+(?:{_PLACEHOLDER}|{_IN_BRACKETS}\s*|(?:{_IN_WORDS}|{_FILE})[ .]*(?:\n|\Z))"
    rf"|{_MARK}(?:{_IN_BRACKETS}|{_IN_WORDS})",
    re.IGNORECASE,
)
_LONGEST_MEDIUM = 40  # characters, of these words
# An iPhone's words for one medium, in languages that join them in other ways; they are a whole message.
_MEDIUM_ELSEWHERE = re.compile(
    "(?:(?:изображение|видео|аудиофайл|GIF|документ|карточка контакта) отсутствует|стикер не добавлен"
    "|(?:зображення|відео|аудіо) відсутнє|картка контакту відсутня|наклейку не додано"
    "|(?:GIF-анімацію|документ) пропущено"
    "|(?:görüntü|video|ses|belge|GIF|çıkartma|kişi kartı) dahil edilmedi"
    "|(?:이미지|비디오|오디오|GIF|연락처 카드|문서) 생략됨|스티커 제외됨"
    "|(?:画像|ビデオ|音声|スタンプ|GIF|ドキュメント)は含まれていません|連絡先カードを省略"
    "|(?:圖片|圖像|图像|照片|影片|视频|音訊|音频|貼圖|贴图|文件|文档|聯絡人卡片|联系人卡片|GIF )已(?:略去|省略|忽略)"
    "|(?:התמונה|הסרטון|סרטון הווידאו|קטע קול|השמע|סטיקר|GIF|כרטיס איש קשר|מסמך) הושמטה?"
    "|لم يتم إدراج (?:الصورة|الفيديوهات|المقاطع الصوتية|المستند|صورة GIF|بطاقة جهة اتصال)|تم حذف الملصقات"
    "|(?:تصویر|ویدیو|صدا|استیکر|سند|GIF) حذف شد"
    "|(?:εικόνα|βίντεο|ήχος|έγγραφο) παραλείφθηκε|(?:αυτοκόλλητο|η κάρτα επαφής) παραλήφθηκε|παράληψη GIF"
    "|(?:obraz|wideo|audio|dokument|plik GIF) pominięt[aey]|pominięto naklejkę|pominięta wizytówka kontaktu"
    "|đã bỏ (?:qua )?(?:hình ảnh|video|sticker|ảnh GIF|tài liệu)|bỏ qua (?:tệp âm thanh|thẻ liên lạc)"
    "|(?:gambar|imej|video|audio|stiker|pelekat|GIF|dokumen|kartu kontak|kad kenalan) tidak (?:disertakan|dimasukkan)"
    "|(?:bild|ljud|video|sticker|GIF|dokument|kontaktkort) ute(?:sluten|slutet|slutlet|lämnad)"
    "|(?:वीडियो|GIF|डॉक्यूमेंट|स्टिकर|कॉन्टैक्ट कार्ड) छोड़ा गया|(?:फ़ोटो|ऑडियो) हटाई ग(?:ई|यी)"
    "|(?:obrázok|obrázek|video|zvuk|zvukový soubor|dokument|GIF|nálepka|karta kontaktu|vizitka)"
    " vynech(?:aný|aná|ané|án|ána|áno)"
    "|(?:billede|video|lyd|klistermærke|GIF|dokument|kontaktkort) udeladt|(?:video|lyd|GIF|klistremerke) utelatt)[.]?",
    re.IGNORECASE,
)
_DOCUMENT = re.compile(r"[^\n]+\.\w{2,5}(?:\s•\s[^\n]+)?")  # its name and pages, as in `plan.pdf • 2 pages`
_PLACE = re.compile(
    r"(?:location|live location shared|standort|ubicación|localisation|localização|posizione)(?::\s\S*maps\S*)?"
    r"|[^\n:\uff1a]{2,30}:\shttps://(?:maps\.google\.com|foursquare\.com)/\S*",
    re.IGNORECASE,
)

_DELETED = re.compile(
    "(?:This message was deleted(?: by admin .*)?|You deleted this message(?: as admin)?"
    "|Diese Nachricht wurde gelöscht|Du hast diese Nachricht gelöscht"
    "|Este mensaje fue eliminado|Se eliminó este mensaje|Eliminaste este mensaje"
    "|Ce message a été supprimé|Vous avez supprimé ce message"
    "|(?:Esta |Essa )?mensagem(?: foi)? apagada|Você apagou esta mensagem"
    "|Questo messaggio è stato eliminato|Hai eliminato questo messaggio"
    "|Dit bericht is verwijderd|U hebt dit bericht verwijderd|Данное сообщение удалено|Вы удалили данное сообщение"
    "|(?:Ta )?wiadomość została usunięta|Usunięto tę wiadomość|Usun(?:ąłeś|ęłaś) tę wiadomość"
    "|Det här meddelandet togs bort|Du tog bort det här meddelandet"
    "|Bu mesaj silindi|Bu mesaj\u0131 sildiniz|Pesan ini telah dihapus|Anda telah menghapus pesan ini"
    "|このメッセージは削除されました|このメッセージを削除しました"
    "|(?:삭제된|삭제한) 메시지입니다|이 메시지(?:를 삭제했습니다|는 삭제되었습니다)"
    "|此消息已删除|你删除了这条消息|此訊息已刪除|你已刪除此訊息|Tin nhắn này đã bị xóa|Bạn đã xóa tin nhắn này"
    "|Tämä viesti poistettiin|Poistit tämän viestin|הודעה זו נמחקה|מחקת הודעה זו"
    "|تم حذف هذه الرسالة|لقد حذفت هذه الرسالة|این پیام حذف شد|شما این پیام را حذف کردید"
    "|(?:यह|इस) (?:मैसेज|संदेश)(?: को)? (?:मिटाया गया|मिटा दिया गया|हटाया गया|हटा दिया गया|डिलीट किया गया)(?: है| था)?"
    "|आपने (?:यह|इस) (?:मैसेज|संदेश)(?: को)? (?:मिटाया|मिटा दिया|हटाया|हटा दिया|डिलीट किया)(?: है| था)?"
    "|ข้อความนี้ถูกลบแล้ว|คุณลบข้อความนี้แล้ว|Ujumbe huu ulifutwa|Ulifuta ujumbe huu"
    "|Tato zpráva byla (?:smazána|odstraněna)|(?:Smazali|Odstranili) jste tuto zprávu|Táto správa bola odstránená"
    "|Ezt az üzenetet törölték|Törölted ezt az üzenetet"
    "|Acest mesaj a fost șters|Ai șters acest mesaj|Αυτό το μήνυμα διαγράφηκε|Διαγράψατε αυτό το μήνυμα"
    "|Це повідомлення видалено|Ви видалили це повідомлення|Denne meldingen ble slettet|Denne besked blev slettet"
    "|Mesej ini telah dipadam|Това съобщение беше изтрито|Ova poruka je izbrisana"
    "|S'ha suprimit aquest missatge)[.!。]?",
    re.IGNORECASE,
)
_EDITED = re.compile(
    r"<(?:This message was edited|Diese Nachricht wurde bearbeitet|Se editó este mensaje"
    r"|Ce message a été modifié|Mensagem editada|Questo messaggio è stato modificato)\.?>",
    re.IGNORECASE,
)
# In other languages: a sentence in brackets at the end that begins with a capital, or is in a script without capitals.
_AT_END = re.compile(rf"(?P<mark>{_MARK}?)(?P<words><(?P<first>[^\W\d_])[^<>\n/=\"\d]{{4,60}}>)\s*\Z")
# A title, a question and options with votes: `POLL:`, in any language.
_POLL = re.compile(
    r"(?:POLL|UMFRAGE|ENCUESTA|SONDAGE|ENQUETE|SONDAGGIO)\s?:\s*\n(?s:.*)"
    r"|[^\n:\uff1a]{2,20}:\s*\n[^\n]+\n(?P<option>[^\n:\uff1a]{2,20}:\s)(?:[^\n]+\(\d+[^()\n]*\)"
    r"|[^\n]+\([^()\n]+\)(?=(?:\n(?P=option)[^\n]+\([^()\n]+\))+\s*\Z))(?:\n(?P=option)[^\n]+)*\s*\Z"
)
_NOTICE = re.compile(
    "(?:Missed (?:group )?(?:voice|video) call|Verpasster? (?:Sprach|Video)anruf|(?:Llamada|Videollamada) perdida"
    "|Appel (?:vocal|vidéo) manqué|Chamada de (?:voz|vídeo) perdida|(?:Chiamata vocale|Videochiamata) persa"
    "|Gemiste (?:spraak|video)oproep|Пропущенный (?:аудио|видео)звонок|Cevaps\u0131z (?:sesli|görüntülü) arama"
    "|Nieodebrane połączenie (?:głosowe|wideo)|Missat (?:röst|video)samtal"
    "|मिस्ड (?:वॉइस|वीडियो|व्हॉइस|व्हिडिओ) कॉल|वॉइस कॉल मिस हुई"
    "|छूटी हुई (?:ध्वनि|विडियो) कॉल|부재중 (?:전화|(?:음성|영상) ?통화)"
    "|مكالمة (?:صوتية|فيديو) (?:فائتة|لم يُ?رد عليها)|تماس (?:صوتی|تصویری) (?:بی\u200c?پاسخ|پاسخ داده نشده)"
    "|Αναπάντητη (?:φωνητική )?(?:κλήση|βιντεοκλήση)|Cuộc gọi (?:(?:thoại |video )?nhỡ|nhỡ video)"
    "|Пропущений (?:голосовий виклик|голосовий дзвінок|аудіодзвінок|відеовиклик|відеодзвінок)"
    "|Nieodebrane po(?:ł\\. (?:głosowe|wideo)|łączenie)|Ubesvaret (?:tale|video)opkald|Tapt (?:tale|video)anrop"
    "|Vastaamaton (?:ääni|video)puhelu|שיחה קולית שלא נענתה|שיחת וידאו שלא נענתה|(?:音声|ビデオ)通話不在着信"
    "|Panggilan (?:suara|video) terlepas|Trucada de (?:veu|vídeo) perduda|Simu ya (?:sauti|video) uliyoikosa"
    "|Zmeškaný (?:hlasový hovor|videohovor|hovor)|Apel (?:vocal|video) (?:pierdut|nepreluat|ratat)"
    "|Nem fogadott (?:hang|video)hívás|(?:สาย|วิดีโอคอล)ที่ไม่ได้รับ"
    "|Panggilan (?:suara|video) tak terjawab|不在着信|未接(?:语音|視訊|语音|語音|视频)(?:通话|通話|来电|來電)"
    r"|(?:Voice|Video) call(?=[.,]\s(?:\d|No answer|Answered|Tap|Declined))"
    "|(?:(?:Sprach|Video)anruf|Llamada de (?:voz|vídeo)|Videollamada|Appel (?:vocal|vidéo)|Chamada de (?:voz|vídeo)"
    "|Chiamata vocale|Videochiamata|(?:Spraak|Video)oproep|(?:Аудио|Видео)звонок|(?:Sesli|Görüntülü) arama"
    "|Połączenie (?:głosowe|wideo)|(?:वॉइस|वीडियो) कॉल|(?:음성|영상) ?통화|(?:音声|ビデオ)通話|(?:语音|视频)通话"
    r"|مكالمة (?:صوتية|فيديو))(?=[.,،、，]\s?(?:\d+\s?\S{1,10}\s*\Z|Keine Antwort|Sin respuesta|(?:Pas de|Sans) réponse"
    "|Não atendida|Sem resposta|Nessuna risposta|Geen antwoord|Нет ответа|Cevap yok|Yanıt yok|Brak odpowiedzi))"
    "|You (?:sent|received) a view once (?:photo|video|message|voice message)|View once (?:photo|video|voice message)"
    r"|Waiting for this message)(?:[.,،、，]\s?.*| at \d.*|\.| omitted)?",
    re.IGNORECASE,
)
# Without the mark, which editors remove, an iPhone's notices are sentences after a name.
_ENCRYPTED = re.compile(
    r"(?:Messages (?:and calls are|you send to this chat and calls|to this (?:chat|group))|Nachrichten und Anrufe sind"
    "|Los mensajes y las llamadas|Les messages et (?:les )?appels|As mensagens e (?:as )?(?:chamadas|ligações)"
    "|I messaggi e le chiamate|Berichten en (?:gesprekken|oproepen)|Сообщения и звонки|Mesajlar ve aramalar"
    "|Wiadomości i (?:rozmowy|połączenia)).{20,}"
    "|.{0,40}(?:端到端加密|端對端加密|エンドツーエンド暗号化|종단간 암호화).{0,80}",
    re.IGNORECASE,
)
_ABOUT_ONESELF = re.compile(
    r"\s(?:(?:changed|created|added|removed|left|joined|pinned|unpinned|turned (?:on|off)|started|ended|updated|reset"
    r"|set|deleted|invited|is now|was added|requested|hat|ha|a|cambió|creó|añadió|eliminó|salió|mudou|criou|adicionou"
    r"|removeu|saiu|heeft) .*?(?:group|admin|subject|icon|picture|description|settings|number|messages?|call|link|code"
    r"|chat|[Gg]rupp\w*|grupo|groupe|gruppo|groep|Betreff|asunto|assunto|sujet|oggetto|onderwerp)\b.*|(?:left|joined)\.?)",
)


class OwnText:
    r"""Tells speech from WhatsApp's own text in one file, which shows the words of its language.

    Attributes:
        edited: The marks of edited messages in other languages that were removed.

    Example:
        >>> own = OwnText(["IMG-20211231-WA0001.jpg (файл добавлен)"])
        >>> own.message("Ann", "plan.pdf (файл добавлен)\nOur new door <This message was edited>")
        ('Our new door', '')
        >>> own.message("Ann", "<Media omitted>")
        ('', 'media')
    """

    def __init__(self, entries: Iterable[str]) -> None:
        files = (_OWN_FILE.search(entry) for entry in entries if entry.endswith(")"))
        self._attached = {match["words"] for match in files if match}
        self.edited: Counter[str] = Counter()

    def message(self, name: str, text: str) -> tuple[str, str]:
        """Returns the text of a speaker's message and "", or "" and the reason to leave it out."""
        rest, media = _MEDIUM.subn("", text)
        file = None if media or ")" not in text else _OTHER_FILE.match(without_marks(text.partition("\n")[0]))
        if file and (file["words"] in self._attached or ".vcf (" in file[0]):
            rest, media = text.partition("\n")[2], 1
        if not media or without_marks(rest):
            rest = self._without_edited(rest)
        bare = without_marks(rest)
        if media:
            return ("", "media") if not bare or _DOCUMENT.fullmatch(bare) else (bare, "")
        return ("", reason) if (reason := _reason(name, rest, bare)) else (bare, "")

    def _without_edited(self, text: str) -> str:
        match = _AT_END.search(text) if text.rstrip().endswith(">") else None
        if not match:
            return text
        if not match["mark"] and not _EDITED.fullmatch(match["words"]):
            first, words = match["first"], match["words"]
            if first.islower() or (first.isupper() and " " not in words):
                return text
            self.edited[words] += 1
        return text[: match.start()]


def _reason(name: str, rest: str, bare: str) -> str:
    if _PLACE.fullmatch(bare) or (len(bare) <= _LONGEST_MEDIUM and _MEDIUM_ELSEWHERE.fullmatch(bare)):
        return "media"
    if _DELETED.fullmatch(bare):
        return "deleted message"
    if rest.startswith(_MARK) or _POLL.fullmatch(bare) or _NOTICE.fullmatch(bare) or _ENCRYPTED.fullmatch(bare):
        return "system message"
    if bare.startswith(name) and _ABOUT_ONESELF.fullmatch(bare[len(name) :]):
        return "system message"
    return "" if bare else "empty message"


def without_marks(text: str) -> str:
    """Removes the invisible marks that WhatsApp puts around its own text, phone numbers and mentions."""
    return _MARKS.sub("", text).strip()
