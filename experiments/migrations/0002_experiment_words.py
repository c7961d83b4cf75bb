"""Each experiment keeps the words by which it is found, its proposal's and its instrument's among them, kept by triggers."""

from django.db import migrations, models

FORWARD = r"""
CREATE FUNCTION experiments_words() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.words := upper(concat_ws(E'\n', NEW.title, NEW.sample, NEW.technique,
        (SELECT concat_ws(E'\n', title, identifier) FROM experiments_proposal WHERE id = NEW.proposal_id),
        (SELECT concat_ws(E'\n', name, code) FROM experiments_instrument WHERE id = NEW.instrument_id)));
    RETURN NEW;
END
$$;
CREATE TRIGGER experiments_experiment_words
    BEFORE INSERT OR UPDATE OF title, sample, technique, proposal_id, instrument_id, words ON experiments_experiment
    FOR EACH ROW EXECUTE FUNCTION experiments_words();

CREATE FUNCTION experiments_words_of_proposal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE experiments_experiment SET words = '' WHERE proposal_id = NEW.id;
    RETURN NULL;
END
$$;
CREATE TRIGGER experiments_proposal_words AFTER UPDATE OF title, identifier ON experiments_proposal
    FOR EACH ROW WHEN ((OLD.title, OLD.identifier) IS DISTINCT FROM (NEW.title, NEW.identifier))
    EXECUTE FUNCTION experiments_words_of_proposal();

CREATE FUNCTION experiments_words_of_instrument() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE experiments_experiment SET words = '' WHERE instrument_id = NEW.id;
    RETURN NULL;
END
$$;
CREATE TRIGGER experiments_instrument_words AFTER UPDATE OF name, code ON experiments_instrument
    FOR EACH ROW WHEN ((OLD.name, OLD.code) IS DISTINCT FROM (NEW.name, NEW.code))
    EXECUTE FUNCTION experiments_words_of_instrument();

UPDATE experiments_experiment SET words = '';
"""
BACKWARD = """
DROP TRIGGER experiments_instrument_words ON experiments_instrument;
DROP TRIGGER experiments_proposal_words ON experiments_proposal;
DROP TRIGGER experiments_experiment_words ON experiments_experiment;
DROP FUNCTION experiments_words_of_instrument();
DROP FUNCTION experiments_words_of_proposal();
DROP FUNCTION experiments_words();
"""


class Migration(migrations.Migration):
    dependencies = [("experiments", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="experiment", name="words", field=models.TextField(db_default="", editable=False)
        ),
        migrations.RunSQL(FORWARD, BACKWARD),
    ]
