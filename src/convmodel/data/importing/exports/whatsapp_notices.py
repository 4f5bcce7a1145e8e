"""The text that WhatsApp itself writes into an exported chat, in some languages.

Owns: the words for omitted media, deleted and edited messages, calls and polls. Knows no lines or dates.
"""

import re

_MARK = "\u200e"  # on an iPhone, it comes before WhatsApp's own text
_MARKS = re.compile("[\u200e\u202a-\u202e\u2066-\u2069\ufeff]")  # the others enclose phone numbers and mentions

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

_IN_BRACKETS = rf"<(?:[^<>\n]{{1,40}}\s(?:{_OMITTED})|(?:{_ATTACHED})\s?:\s[^<>\n]+)>"
# Android writes this in place of any medium, in the phone's language and in brackets that nobody types.
_PLACEHOLDER = r"(?:<[^<>\n]{2,40}>|\u2039[^\u2039\u203a\n]{2,40}\u203a|null)\s*\Z"
_IN_WORDS = rf"(?:{_KINDS})\s(?:{_OMITTED})"
_FILE = rf"[^\n]+\.\w{{2,5}}\s\((?:{_FILE_ATTACHED})\)"
# A caption may follow the medium, or precede it if the medium has WhatsApp's mark.
_MEDIUM = re.compile(
    rf"\A{_MARK}*(?:{_PLACEHOLDER}|{_IN_BRACKETS}\s*|(?:{_IN_WORDS}|{_FILE})[ .]*(?:\n|\Z))"
    rf"|{_MARK}(?:{_IN_BRACKETS}|{_IN_WORDS})",
    re.IGNORECASE,
)
_DOCUMENT = re.compile(r"[^\n]+\.\w{2,5}(?:\s•\s[^\n]+)?")  # its name and pages, as in `plan.pdf • 2 pages`
_PLACE = re.compile(
    r"(?:location|live location shared|standort|ubicación|localisation|localização|posizione)(?::\s\S*maps\S*)?",
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
    "|Wiadomość została usunięta|Usunięto tę wiadomość|Det här meddelandet togs bort|Du tog bort det här meddelandet"
    "|Bu mesaj silindi|Bu mesaj\u0131 sildiniz|Pesan ini telah dihapus|Anda telah menghapus pesan ini"
    "|このメッセージは削除されました|このメッセージを削除しました|삭제된 메시지입니다|이 메시지를 삭제했습니다"
    "|此消息已删除|你删除了这条消息|此訊息已刪除|你已刪除此訊息)[.!。]?",
    re.IGNORECASE,
)
_EDITED = re.compile(
    rf"{_MARK}?<(?:This message was edited|Diese Nachricht wurde bearbeitet|Se editó este mensaje"
    r"|Ce message a été modifié|Mensagem editada|Questo messaggio è stato modificato)\.?>\s*\Z",
    re.IGNORECASE,
)
_POLL = re.compile(r"(?:POLL|UMFRAGE|ENCUESTA|SONDAGE|ENQUETE|SONDAGGIO)\s?:\s*\n")
_NOTICE = re.compile(
    "(?:Missed (?:group )?(?:voice|video) call|Verpasster? (?:Sprach|Video)anruf|(?:Llamada|Videollamada) perdida"
    "|Appel (?:vocal|vidéo) manqué|Chamada de (?:voz|vídeo) perdida|(?:Chiamata vocale|Videochiamata) persa"
    r"|Waiting for this message)(?:[.,]\s.*| at \d.*|\.)?",
    re.IGNORECASE,
)


def message_text(text: str) -> tuple[str, str]:
    r"""Returns the text of a message and "", or "" and the reason to leave it out.

    Example:
        >>> message_text("IMG-1.jpg (file attached)\nOur new door <This message was edited>")
        ('Our new door', '')
        >>> message_text("<Media omitted>")
        ('', 'media')
    """
    rest, media = _MEDIUM.subn("", _EDITED.sub("", text))
    bare = without_marks(rest)
    if media:
        return ("", "media") if not bare or _DOCUMENT.fullmatch(bare) else (bare, "")
    if _PLACE.fullmatch(bare):
        return "", "media"
    if _DELETED.fullmatch(bare):
        return "", "deleted message"
    if rest.startswith(_MARK) or _POLL.match(bare) or _NOTICE.fullmatch(bare):
        return "", "system message"
    return (bare, "") if bare else ("", "empty message")


def without_marks(text: str) -> str:
    """Removes the invisible marks that WhatsApp puts around its own text, phone numbers and mentions."""
    return _MARKS.sub("", text).strip()
